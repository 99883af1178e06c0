"""What every folder uses: JSON read within bounds, and names as they are shown."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colm.json_text import MOST_LEVELS, parse_json, read_json
from colm.names import MOST_IN_A_NAME, escaped, printable, shown_name


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":', '{"a":1,"b":[1,'])
def test_json_nested_too_deep_is_a_value_error(opening: str) -> None:
    for levels in (MOST_LEVELS + 1, 2000, 200_000):
        closing = {"[": "]", "{": "}"}
        text = opening * levels + "0"
        text += "".join(closing[c] for c in reversed(text) if c in closing)
        with pytest.raises(ValueError, match="levels"):
            parse_json(text)


def test_json_as_deep_as_allowed_is_read() -> None:
    text = "[" * MOST_LEVELS + "]" * MOST_LEVELS
    assert json.dumps(parse_json(text)) == text
    for value in (1, "a", None, [], {}, {"a": [1, {"b": 2.5}]}):
        assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"a": ' + b"9" * 5000 + b"}", b"nul"])
def test_what_is_no_json_is_a_value_error(content: bytes, tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        read_json(path)


DEEP = '{"a": ' * 5000 + "1" + "}" * 5000


def test_what_runs_leave_is_read_within_bounds(tmp_path) -> None:
    from safetensors.torch import save_file

    from colm.evaluation.journal import Journal
    from colm.runs.evaluated import load_evaluated
    from colm.training.checkpoints.manifest import MANIFEST_FILE, problem_with, problem_with_plain
    from colm.training.checkpoints.selector_state import SETTINGS_KEY, load_state

    for name in (MANIFEST_FILE, "trainer_state.json", "adapter_config.json"):
        (tmp_path / name).write_text(DEEP)
    assert "cannot be read" in str(problem_with(tmp_path))
    assert "cannot be read" in str(problem_with_plain(tmp_path))
    with pytest.raises(ValueError, match=r"adapter_config\.json.*levels"):
        load_evaluated(str(tmp_path))
    state = tmp_path / "state.safetensors"
    save_file({}, state, metadata={SETTINGS_KEY: DEEP})
    with pytest.raises(ValueError, match=r"state\.safetensors.*levels"):
        load_state(state, {})
    journal = tmp_path / "journal.jsonl"
    journal.write_text(DEEP + "\n")
    with pytest.raises(ValueError, match=r"journal\.jsonl:1.*levels"):
        Journal(journal, {})


NAMES = st.text() | st.text("ab\\nrxu0\n\r\x1b|`", max_size=6)


@given(NAMES, NAMES)
def test_different_names_are_shown_differently_in_a_line(one: str, other: str) -> None:
    for name in (one, other):
        assert printable(name).isprintable()
        assert shown_name(name).isprintable()
        assert 0 < len(shown_name(name)) <= MOST_IN_A_NAME
    assert (escaped(one) == escaped(other)) == (one == other)
    if "''" not in (one, other):
        assert (shown_name(one) == shown_name(other)) == (one == other)


@pytest.mark.parametrize(
    "name", ["web", "Mathe: Grundkurs", "数学", "a/b c", r"C:\data", "x|y `z`"]
)
def test_a_name_that_can_be_printed_stays_as_it_is(name: str) -> None:
    assert shown_name(name) == escaped(name) == printable(name) == name
