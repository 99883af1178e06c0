"""Batched greedy answers against one prompt at a time with a plain loop."""

from pathlib import Path

import pytest
import torch

from colm.evaluation import generate_answers, score_answers


@pytest.fixture(scope="module")
def tiny_model(tiny_model_folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_folder).train()


PROMPTS = [[5, 9, 14, 33], [100], [7, 8], [40, 41, 42, 43, 44, 45, 46], [9, 9, 9]]


def as_text(tokens: list[int]) -> str:
    return f" {tokens} "


def slow_answer(model, prompt: list[int], steps: int, end_token: int) -> str:
    """The obviously right twin: no batch, no padding, no cache."""
    tokens = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == end_token:
            break
    answer = tokens[len(prompt) :]
    return str(answer[:-1] if answer[-1] == end_token else answer)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_equals_one_prompt_at_a_time(tiny_model, batch_size: int) -> None:
    first = [slow_answer(tiny_model, p, 6, end_token=-1) for p in PROMPTS]
    # A token that some answers hold and some do not ends some early.
    end_token = int(first[0].strip("[]").split(", ")[1])
    expected = [slow_answer(tiny_model, p, 6, end_token) for p in PROMPTS]
    answers = generate_answers(
        tiny_model, PROMPTS, as_text, end_token=end_token, max_new_tokens=6, batch_size=batch_size
    )
    assert answers == expected
    assert len({len(answer) for answer in answers}) > 1


def test_a_model_s_own_settings_leave_it_greedy(tiny_model) -> None:
    settings = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "num_beams": 3}
    before = {name: getattr(tiny_model.generation_config, name) for name in settings}
    expected = [slow_answer(tiny_model, p, 6, end_token=0) for p in PROMPTS]
    try:
        tiny_model.generation_config.update(**settings)
        answers = generate_answers(tiny_model, PROMPTS, str, end_token=0, max_new_tokens=6)
    finally:
        tiny_model.generation_config.update(**before)
    assert answers == expected


def test_training_mode_is_restored(tiny_model) -> None:
    tiny_model.train()
    generate_answers(tiny_model, PROMPTS[:1], as_text, end_token=2, max_new_tokens=1)
    assert tiny_model.training


def test_no_prompts_give_no_answers(tiny_model) -> None:
    assert generate_answers(tiny_model, [], as_text, end_token=2) == []


def test_an_empty_prompt_is_refused(tiny_model) -> None:
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        generate_answers(tiny_model, [[1], []], as_text, end_token=2)


def test_scores_are_means_of_sources() -> None:
    records = [
        {"source": s, "right": r} for s, r in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "4"))
    ]
    scores = score_answers(["1", "2", "0", "0"], records, lambda a, r: float(a == r["right"]))
    assert scores.by_source == pytest.approx({"a": 2 / 3, "b": 0.0})
    assert scores.macro == pytest.approx(1 / 3)


def test_scoring_needs_an_answer_for_each_record() -> None:
    with pytest.raises(ValueError, match="no answers"):
        score_answers([], [], lambda answer, record: 1.0)
    with pytest.raises(ValueError, match="longer"):
        score_answers(["1"], [{"source": "a"}] * 2, lambda answer, record: 1.0)
