"""Batches of like examples for embedding models: clusters, batches, and a resumed run."""

import hashlib
import itertools

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from colm import ClusteredBatches
from colm.training.contrastive.balanced_clusters import balanced_clusters

TOPICS = ("cats", "trains", "sums", "rain")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(number=st.integers(0, 40), size=st.integers(1, 45), seed=st.integers(0, 3))
def test_clusters_share_out_all_rows_about_equally(number: int, size: int, seed: int) -> None:
    found = balanced_clusters(torch.randn(number, 3, generator=seeded(seed)), size, seeded(seed))
    assert sorted(row for cluster in found for row in cluster.tolist()) == list(range(number))
    lengths = [len(cluster) for cluster in found]
    assert len(lengths) == -(-number // size)
    assert all(1 <= length <= size for length in lengths)
    assert not lengths or max(lengths) <= 2 * min(lengths)


def test_groups_that_lie_apart_are_the_clusters() -> None:
    groups = torch.arange(32) % 4
    features = 5 * torch.eye(4)[groups] + 0.1 * torch.randn(32, 4, generator=seeded())
    found = balanced_clusters(features, 8, seeded())
    assert all(len(set(groups[cluster].tolist())) == 1 for cluster in found)
    # A longer row is no further away.
    scaled = features * torch.linspace(1, 9, 32)[:, None]
    again = balanced_clusters(scaled, 8, seeded())
    assert {tuple(each.tolist()) for each in again} == {tuple(each.tolist()) for each in found}


def test_halves_are_nearer_each_other_than_random_ones() -> None:
    features = nn.functional.normalize(torch.randn(64, 5, generator=seeded()), dim=1)

    def likeness(clusters) -> float:
        return float(sum((features[rows] @ features[rows].T).sum() for rows in clusters))

    random = likeness(torch.randperm(64, generator=seeded()).split(8))
    assert likeness(balanced_clusters(features, 8, seeded())) > 2 * random


class Embedding(nn.Module):
    """Embeds a text as its topic, turned by a weight, and a little of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(len(TOPICS)))
        self.calls: list[int] = []

    def encode(self, texts, **_options) -> torch.Tensor:
        self.calls.append(len(texts))
        self.eval()
        own = [int(hashlib.md5(text.encode()).hexdigest(), 16) % 97 for text in texts]
        topics = torch.tensor([TOPICS.index(text.split()[0]) for text in texts])
        return self.weight[topics] + 1e-3 * torch.tensor(own)[:, None]


def examples(each: int = 8) -> Dataset:
    texts = [f"{topic} {number}" for number in range(each) for topic in TOPICS]
    return Dataset.from_dict({"anchor": texts, "positive": [text[::-1] for text in texts]})


def batches_of(data: Dataset, batch_size: int = 8, drop_last: bool = False, **options):
    model = Embedding()
    source = ClusteredBatches(model, data["anchor"], **options)
    return model, source, source(data, batch_size, drop_last, seed=3)


def topics_of(data: Dataset, batch: list[int]) -> list[str]:
    return [data[row]["anchor"].split()[0] for row in batch]


@pytest.mark.parametrize("size", [1, 4, 8])
def test_an_epoch_has_each_example_once_in_whole_clusters(size: int) -> None:
    data = examples()
    model, _, batches = batches_of(data, cluster_sizes=[size])
    model.train()
    made = list(batches)
    assert len(made) == len(batches) == 4
    assert sorted(itertools.chain(*made)) == list(range(32))
    of_batch = [len(set(topics_of(data, batch))) for batch in made]
    if size > 1:
        assert max(of_batch) <= 8 // size
    else:
        assert sum(of_batch) > 8
    assert model.calls == ([] if size == 1 else [32])
    assert model.training
    assert list(batches) == made
    batches.set_epoch(1)
    assert list(batches) != made


def test_clusters_grow_and_are_found_anew_among_what_is_left() -> None:
    data = examples(32)
    model, _, batches = batches_of(
        data, batch_size=4, cluster_sizes=[1, 2, 4], refresh_every=11, drop_last=True
    )
    topics = [len(set(topics_of(data, batch))) for batch in batches]
    assert model.calls == [128 - 44, 128 - 88]
    random, twos, fours = sum(topics[:11]) / 11, sum(topics[11:22]) / 11, sum(topics[22:]) / 10
    assert random > twos > fours
    batches.set_epoch(1)
    next(iter(batches))
    assert model.calls[-1] == 128


def test_equal_texts_share_no_batch() -> None:
    data = examples()
    same = data["positive"][:16] + ["the same"] * 4 + data["positive"][20:]
    data = data.remove_columns("positive").add_column("positive", same)
    _, _, batches = batches_of(data, cluster_sizes=[4])
    made = list(batches)
    for batch in made:
        assert sum(data[row]["positive"] == "the same" for row in batch) <= 1
    assert len(made) == len(batches)
    assert len(set(itertools.chain(*made))) == sum(map(len, made))


def test_other_data_has_random_batches() -> None:
    data = examples()
    model, source, _ = batches_of(data, cluster_sizes=[4])
    held_out = data.select(range(6))
    batches = source(held_out, 4, drop_last=False, generator=seeded())
    assert sorted(itertools.chain(*batches)) == list(range(6))
    assert not model.calls


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cluster_sizes": []}, "cluster_sizes"),
        ({"cluster_sizes": [0]}, "cluster_sizes"),
        ({"refresh_every": 0}, "refresh_every"),
        ({"cluster_sizes": [16]}, "cluster_sizes has 16.*8 examples"),
    ],
)
def test_options_out_of_range_are_named(options, said) -> None:
    with pytest.raises(ValueError, match=said):
        batches_of(examples(), **options)


def small_embedder(folder):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(0)
    encoder = modules.Transformer(str(folder))
    encoder.tokenizer.pad_token = encoder.tokenizer.eos_token
    pooled = modules.Pooling(encoder.get_embedding_dimension())
    return SentenceTransformer(modules=[encoder, pooled], device="cpu")


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tiny_model_folder, tmp_path) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    data = examples()

    def train(folder, resume=None) -> dict[str, torch.Tensor]:
        model = small_embedder(tiny_model_folder)
        source = ClusteredBatches(
            model, data["anchor"], cluster_sizes=[1, 2, 4], refresh_every=2, encode_batch_size=16
        )
        args = SentenceTransformerTrainingArguments(
            str(folder),
            per_device_train_batch_size=4,
            num_train_epochs=2,
            learning_rate=1e-3,
            save_strategy="steps",
            save_steps=5,
            report_to="none",
            use_cpu=True,
            batch_sampler=source,
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model,
            args,
            train_dataset=data,
            loss=MultipleNegativesRankingLoss(model),
            callbacks=[source],
        )
        trainer.train(resume_from_checkpoint=resume)
        return {name: value.clone() for name, value in model.state_dict().items()}

    whole = train(tmp_path / "whole")
    for step in (5, 10):
        again = train(tmp_path / "whole", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert all(torch.equal(again[name], value) for name, value in whole.items())
