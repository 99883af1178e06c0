"""Likelihoods of candidates against one row at a time, and the tokens they are taken over."""

import pytest
import torch

from colm.evaluation.likelihoods import OptionLikelihoods, option_likelihoods
from colm.evaluation.prompt_tokens import (
    CandidateTokens,
    candidate_tokens,
    end_tokens,
    prompt_tokens,
    text_tokens,
)
from colm.evaluation.questions import Question
from tests.cases import quick_first


@pytest.fixture(scope="module")
def tiny_model(tiny_model_folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_folder).train()


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)


@pytest.fixture(scope="module")
def plain_tokenizer(tiny_base_model_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base_model_folder)


QUESTIONS = [
    CandidateTokens([[5, 9, 14, 33], [5, 9, 14, 34], [5, 9, 14, 33, 8]], 3),
    CandidateTokens([[100, 7], [100, 8]], 1),
    CandidateTokens([list(range(10, 40)), [*range(10, 38), 3]], 20),
    CandidateTokens([[5, 9, 2], [5, 9, 2, 2, 2, 2]], 2),
]


def slow_likelihood(model, row, start):
    """The obviously right twin: one row, one token at a time."""
    total = 0.0
    for place in range(start, len(row)):
        with torch.no_grad():
            logits = model(torch.tensor([row[:place]])).logits[0, -1]
        total += float(torch.log_softmax(logits.double(), 0)[row[place]])
    return total


@pytest.mark.parametrize("batch_size", [1, 2, 9])
@pytest.mark.parametrize("batch_tokens", quick_first([1, 64, 4096]))
def test_equals_one_token_at_a_time(tiny_model, batch_size, batch_tokens):
    seen = []
    found = option_likelihoods(
        tiny_model,
        QUESTIONS,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        on_batch=lambda rows, values: seen.extend(rows),
    )
    assert sorted(seen) == [0, 1, 2, 3]
    assert tiny_model.training
    for question, value in zip(QUESTIONS, found, strict=True):
        expected = [slow_likelihood(tiny_model.eval(), r, question.start) for r in question.rows]
        assert value.log_likelihoods == pytest.approx(expected, abs=1e-4)
        assert value.tokens == tuple(len(row) - question.start for row in question.rows)
    tiny_model.train()


def test_no_questions_have_no_likelihoods(tiny_model):
    assert option_likelihoods(tiny_model, []) == []


def test_the_first_of_equals_is_likeliest():
    assert OptionLikelihoods((-1.0, -1.0), (1, 1)).likeliest() == 0


def test_text_is_continued_and_questions_are_asked(tokenizer, plain_tokenizer):
    continued = Question("It rained so", "wet", continued=True, candidates=("dry", "wet day"))
    for each in (tokenizer, plain_tokenizer):
        tokens = candidate_tokens(each, continued, 512)
        assert [each.decode(row) for row in tokens.rows] == [
            "It rained so dry",
            "It rained so wet day",
        ]
        assert each.decode(tokens.rows[1][tokens.start :]).strip() == "wet day"
    asked = Question("Is it wet?", "yes", candidates=("yes", "no"))
    chat = candidate_tokens(tokenizer, asked, 512)
    assert tokenizer.decode(chat.rows[0]).endswith("<|im_start|>assistant\nyes")
    assert tokenizer.decode(chat.rows[1][chat.start :]) == "no"
    plain = candidate_tokens(plain_tokenizer, asked, 512)
    assert plain_tokenizer.decode(plain.rows[0]).endswith("### Response:\nyes")


def test_long_prompts_lose_their_beginning_alike(tokenizer):
    question = Question("a" * 50, "b", continued=True, candidates=("bb", "cccc"))
    tokens = candidate_tokens(tokenizer, question, 20)
    assert max(map(len, tokens.rows)) == 20
    assert tokens.rows[0][: tokens.start] == tokens.rows[1][: tokens.start]
    assert tokenizer.decode(tokens.rows[1][tokens.start :]).strip() == "cccc"


def test_prompts_are_those_of_training(tokenizer, plain_tokenizer):
    from datasets import Dataset

    from colm.data import format_dataset

    rows = Dataset.from_dict({"question": ["2 + 2?"], "answer": ["4"]})
    question = Question("2 + 2?", "4")
    trained = format_dataset(rows, conversational=True).dataset[0]["prompt"]
    expected = tokenizer.apply_chat_template(trained, add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(prompt_tokens(tokenizer, question)) == expected
    plain = format_dataset(rows, conversational=False).dataset[0]["prompt"]
    assert plain_tokenizer.decode(prompt_tokens(plain_tokenizer, question)) == plain
    assert "2 + 2? Go." in tokenizer.decode(prompt_tokens(tokenizer, question, " Go."))


@pytest.mark.parametrize(
    "added", ["$A <|im_end|>", "<|im_start|> $A", "<|im_start|> $A <|im_end|>"]
)
def test_what_a_tokenizer_adds_ends_no_prompt(added, plain_tokenizer):
    import copy

    from tokenizers.processors import TemplateProcessing

    ending = copy.deepcopy(plain_tokenizer)
    specials = [(t, ending.convert_tokens_to_ids(t)) for t in ("<|im_start|>", "<|im_end|>")]
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single=added, special_tokens=specials
    )
    beginning = [specials[0][1]] if added.startswith("<") else []
    for question in (Question("2 + 2?", "4"), Question("It is", "4", continued=True)):
        plain = prompt_tokens(plain_tokenizer, question)
        assert prompt_tokens(ending, question) == beginning + plain
    chosen = Question("It is", "wet", continued=True, candidates=("wet", "dry day"))
    plain_rows, start = candidate_tokens(plain_tokenizer, chosen, 512)
    expected = ([beginning + row for row in plain_rows], start + len(beginning))
    assert candidate_tokens(ending, chosen, 512) == expected
    # What the text itself ends with is the user's.
    own = text_tokens(ending, "It is<|im_end|>")
    assert own == beginning + plain_tokenizer("It is<|im_end|>")["input_ids"]


def test_answers_end_with_the_text_or_the_turn(tokenizer, plain_tokenizer):
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_tokens(tokenizer) == [turn]
    assert end_tokens(plain_tokenizer, [turn, 9]) == [turn, 9]
    changed = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    changed.eos_token = "<|pad|>"
    assert end_tokens(changed, 7) == [changed.pad_token_id, turn, 7]
    changed.eos_token = None
    changed.chat_template = None
    with pytest.raises(ValueError, match="no token that ends"):
        end_tokens(changed)
