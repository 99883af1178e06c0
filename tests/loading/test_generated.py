"""The generated mixture: its shape, its reproducibility and its scorers."""

import sys
from collections import Counter
from itertools import chain

import pytest

from colm.data import generated
from colm.data.generated import SOURCES, GeneratedMixture, generate_mixture, score

HELD_OUT = 3


@pytest.fixture(scope="module")
def mixture() -> GeneratedMixture:
    return generate_mixture(seed=1, held_out_per_source=HELD_OUT)


def question(record: dict) -> str:
    return record["prompt"][-1]["content"]


def test_sizes_are_imbalanced_like_real_mixtures(mixture: GeneratedMixture) -> None:
    counts = Counter(record["source"] for record in mixture.train)
    sizes = sorted(counts.values(), reverse=True)
    assert len(sizes) >= 10
    assert sizes[0] >= 50 * sizes[-1]
    assert 0.75 <= sum(sizes[:4]) / sum(sizes) <= 0.82
    large = [size for size in sizes if size >= sum(sizes) / len(sizes)]
    assert len(large) == 4
    assert counts == {name: source.examples for name, source in SOURCES.items()}


def test_held_out_has_as_many_of_each_source(mixture: GeneratedMixture) -> None:
    assert Counter(r["source"] for r in mixture.held_out) == dict.fromkeys(SOURCES, HELD_OUT)


def test_no_question_occurs_twice(mixture: GeneratedMixture) -> None:
    questions = [
        (record["source"], question(record)) for record in chain(mixture.train, mixture.held_out)
    ]
    assert len(set(questions)) == len(questions)


def test_records_are_conversations_without_a_default_system_message(
    mixture: GeneratedMixture,
) -> None:
    for record in mixture.train:
        assert set(record) == {"prompt", "completion", "source"}
        assert [message["role"] for message in record["prompt"]] == ["system", "user"]
        assert [message["role"] for message in record["completion"]] == ["assistant"]
        assert record["completion"][0]["content"].strip()


def test_a_large_source_does_not_come_first(mixture: GeneratedMixture) -> None:
    first = Counter(record["source"] for record in mixture.train[:500])
    assert len(first) > 8
    assert first["chain_sum"] < 250


@pytest.fixture
def few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("chain_sum", "time_intervals", "calendar_arithmetic")
    few = {n: generated.GeneratedSource(6, SOURCES[n].options) for n in names}
    monkeypatch.setattr(generated, "SOURCES", few)


@pytest.mark.usefixtures("few_examples")
def test_the_seed_decides_everything() -> None:
    assert generate_mixture(seed=5, held_out_per_source=2) == generate_mixture(5, 2)
    one, other = generate_mixture(seed=0), generate_mixture(seed=1)
    shared = {question(r) for r in one.train} & {question(r) for r in other.train}
    assert len(shared) < len(one.train) / 4


@pytest.mark.usefixtures("few_examples")
def test_without_a_chat_template_prompts_are_text() -> None:
    chat = generate_mixture(held_out_per_source=1)
    plain = generate_mixture(held_out_per_source=1, conversational=False)
    for record, twin in zip(plain.train, chat.train, strict=True):
        assert question(twin) in record["prompt"]
        assert record["completion"] == twin["completion"][0]["content"]


def test_every_right_answer_scores_one(mixture: GeneratedMixture) -> None:
    for record in mixture.held_out:
        assert score(record["completion"][0]["content"], record) == 1.0


@pytest.mark.parametrize("answer", ["", "no idea", "x = 1/0", "1e999", "9:99", "y \u00d7 y", "["])
def test_no_answer_upsets_a_scorer(mixture: GeneratedMixture, answer: str) -> None:
    for record in mixture.held_out:
        assert 0.0 <= score(answer, record) < 1.0


def test_an_answer_to_another_question_scores_less(mixture: GeneratedMixture) -> None:
    by_source: dict[str, list[dict]] = {}
    for record in mixture.held_out:
        by_source.setdefault(record["source"], []).append(record)
    scores = [
        score(records[1]["completion"][0]["content"], records[0]) for records in by_source.values()
    ]
    assert sum(scores) / len(scores) < 0.6


@pytest.mark.usefixtures("few_examples")
def test_asking_for_nothing_held_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"held_out_per_source.* 1.* 0"):
        generate_mixture(held_out_per_source=0)


def test_asking_for_more_than_there_is_names_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"coin_flip": generated.GeneratedSource(10, {"min_trials": 3, "max_trials": 3})}
    monkeypatch.setattr(generated, "SOURCES", tiny)
    with pytest.raises(ValueError, match=r"coin_flip has 8 different questions, 15 were"):
        generate_mixture(held_out_per_source=5)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ModuleNotFoundError, match="pip install reasoning-gym"):
        generate_mixture()
