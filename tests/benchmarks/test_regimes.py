"""The regimes of training data are what they are called, and the small model learns from them."""

from collections import Counter

import pytest
import torch

from benchmarks import regimes
from benchmarks.small_model import byte_tokenizer, small_model
from colm.data.generated import generate_mixture


@pytest.fixture(scope="module")
def records():
    return generate_mixture(seed=0).train


def answers(records):
    return Counter((one["source"], one["completion"][0]["content"]) for one in records)


def test_few_examples_keep_every_source(records):
    few = regimes.repeated(records, seed=1, examples=200)
    assert {one["source"] for one in few} == {one["source"] for one in records}
    assert 190 <= len(few) <= 230
    assert all(one in records for one in few[::20])
    assert few == regimes.repeated(records, seed=1, examples=200)
    assert few != regimes.repeated(records, seed=2, examples=200)


def test_wrong_answers_are_those_of_others_of_the_source(records):
    swapped = regimes.wrong(records, seed=1)
    assert answers(swapped) == answers(records)
    right = {(one["source"], str(one["prompt"])): one["completion"] for one in records}
    told = [right[one["source"], str(one["prompt"])] != one["completion"] for one in swapped]
    # Where a source has few answers, a swapped one is often right by chance.
    assert 0.25 * len(records) < sum(told) <= 0.4 * len(records) + len(answers(records))


def test_large_sources_come_in_five_wordings(records):
    many = regimes.redundant(records, 0)
    before, after = (Counter(one["source"] for one in each) for each in (records, many))
    average = len(records) / len(before)
    assert after == {
        source: 5 * number if number > average else number for source, number in before.items()
    }
    largest = before.most_common(1)[0][0]
    prompts = [one["prompt"][-1]["content"] for one in many if one["source"] == largest]
    assert len(set(prompts)) > 4.9 * len({*prompts[::5]})


def test_noise_is_a_source_of_which_nothing_can_be_learned(records):
    noisy = regimes.with_noise(records, seed=1)
    assert noisy[: len(records)] == records
    added = noisy[len(records) :]
    assert {one["source"] for one in added} == {regimes.NOISE}
    assert len(added) == len(records) // len({one["source"] for one in records})
    assert all(one.keys() == records[0].keys() for one in added)
    assert len(answers(added)) > 0.99 * len(added)


def test_text_and_messages_are_reworded_alike():
    assert regimes._reworded("How many?", 1) == "Question: what number of?"
    assert regimes._reworded([{"role": "user", "content": "Find x"}], 2)[0]["content"].startswith(
        "determine x"
    )


def test_bytes_come_back_and_the_small_model_takes_them():
    tokenizer = byte_tokenizer()
    text = "naïve 12 + 3\n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    chat = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "1+1\n2<end>"
    model = small_model(len(tokenizer))
    batch = torch.tensor([ids])
    assert model(input_ids=batch, labels=batch).loss.isfinite()
