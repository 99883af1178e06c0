"""Durations as people say them."""

import pytest

from colm.runs.saying import duration_in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7290, "2 h 01 min"),
    ],
)
def test_durations_round_up_to_the_next_unit(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words
