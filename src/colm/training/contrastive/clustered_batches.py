"""``ClusteredBatches``: batches of like examples for sentence-transformers' trainer.

Where the other examples of a batch are the negatives, random ones are soon told apart. So the model
embeds the examples, those that are near each other make clusters, and a batch is made of whole
clusters; clusters grow as training goes on, and negatives get harder.  Paper: NGAME, Dahiya et al.
2023, arXiv 2207.04452.  Deviates: clusters are found anew after some batches, not after some
epochs, for fine-tuning has few; each example still comes once an epoch. Texts that are equal share
no batch, as they would be each other's negatives.

Symbols: N examples, b of a batch, c of a cluster.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, distributed
from torch.utils.data import BatchSampler, RandomSampler, Sampler
from transformers import TrainerCallback

from colm.checks import check_whole, shown
from colm.durable import write_whole
from colm.randomness import keyed_generator
from colm.training.contrastive.balanced_clusters import balanced_clusters

STATE_FILE = "colm_clustered_batches.safetensors"


class ClusteredBatches(TrainerCallback):
    """Makes the batches of sentence-transformers' trainer of clusters of like examples.

    Pass it twice: as ``batch_sampler`` of the arguments, and among the ``callbacks``, so that a
    checkpoint has the batches of its epoch, and a resumed run goes on with them. Of several
    processes the first embeds the examples, and its clusters are everyone's.

    Args:
        model: with ``encode``, as ``SentenceTransformer`` has; the one that is trained.
        texts: of the training data, one a row: what examples are like each other by.
        cluster_sizes: c, from one search for clusters to the next; the last is kept. 1 is a random
            batch, for which nothing is embedded.
        refresh_every: batches between two searches.
        encode_batch_size: texts that are embedded at once.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        model: Any,
        texts: Sequence[str],
        *,
        cluster_sizes: Sequence[int] = (1, 2, 4, 8),
        refresh_every: int = 100,
        encode_batch_size: int = 64,
    ) -> None:
        self._model, self._texts = model, list(texts)
        self._encode_batch_size = check_whole("encode_batch_size", encode_batch_size, least=1)
        self.refresh_every = check_whole("refresh_every", refresh_every, least=1)
        if not isinstance(cluster_sizes, Sequence) or not cluster_sizes:
            raise ValueError(
                f"cluster_sizes must be one or more whole numbers; got {shown(cluster_sizes)}."
            )
        self._sizes = [check_whole("cluster_sizes", size, least=1) for size in cluster_sizes]
        self._sampler: _Batches | None = None

    def __call__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> Sampler[list[int]]:
        """Return the batches of a data set: clustered of the training data, else random ones.

        Raises:
            ValueError: a cluster is larger than a batch.
        """
        columns = [name for name in dataset.column_names if name not in (valid_label_columns or [])]
        of_texts = len(dataset) == len(self._texts) and any(
            list(dataset[name]) == self._texts for name in columns
        )
        if not of_texts:
            return BatchSampler(RandomSampler(dataset, generator=generator), batch_size, drop_last)
        if max(self._sizes) > batch_size:
            raise ValueError(
                f"cluster_sizes has {max(self._sizes)}, and a batch holds {batch_size} examples: "
                "set no more than those, or raise per_device_train_batch_size."
            )
        parts = [list(dataset[name]) for name in columns]
        said = [tuple(map(str, row)) for row in zip(*parts, strict=True)]
        self._sampler = _Batches(self, said, batch_size, drop_last, seed)
        return self._sampler

    def clusters(self, rows: Tensor, search: int, seed: int) -> list[Tensor]:
        """Return the clusters of some rows, in random order.

        Args:
            rows: int64 indices of examples.
            search: how many searches there were before.
            seed: with that, all that is random goes by it.
        """
        size = self._sizes[min(search, len(self._sizes) - 1)]
        generator = keyed_generator(seed, "clustered batches", search)
        if size == 1:
            return list(rows[torch.randperm(len(rows), generator=generator)].split(1))
        place = self._places_in_clusters(rows, size, generator)
        found = [(place == cluster).nonzero()[:, 0] for cluster in range(int(place.max()) + 1)]
        generator = keyed_generator(seed, "clusters in order", search)
        order = torch.randperm(len(found), generator=generator).tolist()
        return [rows[found[place]] for place in order]

    def _places_in_clusters(self, rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Return the cluster of each row: what the first process finds, as others may round."""
        place = torch.zeros(len(rows), dtype=torch.int64)
        if not distributed.is_initialized() or distributed.get_rank() == 0:
            features = self._embed([self._texts[row] for row in rows.tolist()])
            for number, cluster in enumerate(balanced_clusters(features, size, generator)):
                place[cluster] = number
        if distributed.is_initialized():
            place = place.to(self._model.device)
            distributed.broadcast(place, src=0)
        return place.cpu()

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> Tensor:
        """Embed texts with the model as it is, and leave it in the mode that it was in."""
        was_training = self._model.training
        try:
            embedded: Tensor = self._model.encode(
                texts,
                batch_size=self._encode_batch_size,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        finally:
            self._model.train(was_training)
        return embedded.float()

    def on_save(self, args: Any, state: Any, _control: Any, **_options: Any) -> None:
        """Write the batches of the epoch into the checkpoint."""
        if self._sampler is not None and state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_whole(folder / STATE_FILE, save(self._sampler.state_dict()))

    def on_train_begin(self, args: Any, state: Any, _control: Any, **_options: Any) -> None:
        """Go on with the batches of the checkpoint that is resumed from.

        Raises:
            ValueError: it has none.
        """
        if self._sampler is None or not state.global_step:
            return
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE
        if not path.is_file():
            raise ValueError(
                f"{path.parent} has no {STATE_FILE}, so its epoch cannot be gone on with: pass "
                "ClusteredBatches among the callbacks of the run that writes it."
            )
        self._sampler.load_state_dict(load_file(path))


class _Batches(Sampler[list[int]]):
    """The batches of an epoch, in searches for clusters among the examples that are left.

    Args:
        source: finds clusters.
        said: the texts of each example, N of them.
        batch_size: b.
        drop_last: leaves out a last batch that is not full.
        seed: of the run.
    """

    def __init__(
        self,
        source: ClusteredBatches,
        said: Sequence[tuple[str, ...]],
        batch_size: int,
        drop_last: bool,
        seed: int,
    ) -> None:
        self.batch_size, self.drop_last = batch_size, drop_last
        self._source, self._said, self._seed = source, said, seed
        self._epoch = self._searches = 0
        # Batches of the searches so far, and the epoch that they are of.
        self._made, self._made_in = list[list[int]](), 0

    def __len__(self) -> int:
        """Return the number of batches; where equal texts would make more, some examples wait."""
        whole, rest = divmod(len(self._said), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def set_epoch(self, epoch: int) -> None:
        """Take the number of the epoch that comes."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Go through the batches of the epoch; those that were made already come as they were."""
        if self._made_in != self._epoch:
            self._made, self._made_in = [], self._epoch
        yield from list(self._made)
        while len(self._made) < len(self):
            left = torch.ones(len(self._said), dtype=torch.bool)
            left[[row for batch in self._made for row in batch]] = False
            clusters = self._source.clusters(left.nonzero()[:, 0], self._searches, self._seed)
            self._searches += 1
            number = min(self._source.refresh_every, len(self) - len(self._made))
            made = list(islice(self._from(clusters), number))
            self._made += made
            yield from made

    def _from(self, clusters: Sequence[Tensor]) -> Iterator[list[int]]:
        """Fill batches with examples in their order; one whose text is there already waits."""
        waiting = deque(row for cluster in clusters for row in cluster.tolist())
        while waiting:
            batch, texts, later = list[int](), set[str](), list[int]()
            while waiting and len(batch) < self.batch_size:
                row = waiting.popleft()
                if texts.isdisjoint(self._said[row]):
                    batch.append(row)
                    texts.update(self._said[row])
                else:
                    later.append(row)
            waiting.extendleft(reversed(later))
            yield batch

    def state_dict(self) -> dict[str, Tensor]:
        """Return the batches of the epoch as far as they are settled, for a checkpoint."""
        rows = [row for batch in self._made for row in batch]
        return {
            "place": torch.tensor([self._made_in, self._searches, len(self._said)]),
            "rows": torch.tensor(rows, dtype=torch.int64),
            "lengths": torch.tensor([len(batch) for batch in self._made], dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: it is of other data.
        """
        self._made_in, self._searches, number = state["place"].tolist()
        if number != len(self._said):
            raise ValueError(
                f"the checkpoint has batches of {number} examples, and the training data has "
                f"{len(self._said)}: resume with the data of the run, or start a new one."
            )
        parts = state["rows"].split(state["lengths"].tolist())
        self._made, self._epoch = [part.tolist() for part in parts], self._made_in
