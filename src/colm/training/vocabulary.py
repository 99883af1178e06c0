"""Token ids of data: those that a model has no embedding for, and those that are used at all.

A tokenizer that is not the model's, or tokens added to it and not to the model, otherwise end in an
index out of range deep inside the first step, which on an accelerator is not even told as that.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

from colm.gradients.batch import IGNORED_LABEL

_BATCH_ROWS = 10_000


def check_token_ids(trainer: Any) -> None:
    """Refuse data, or a padding token, with ids that the model of a trainer does not have.

    Reads the columns of token ids once, in Arrow; what else examples come from is looked at when
    they are drawn, by `check_examples`.

    Args:
        trainer: built, not yet trained.

    Raises:
        ValueError: such an id, in one line with the tokenizer and the model.
    """
    size = vocabulary_size(trainer.model)
    if size is None:
        return
    for name, dataset in data_sets(trainer).items():
        for column in ("input_ids", "labels"):
            wrong = _id_beyond(dataset, column, size)
            if wrong is not None:
                what = f"the {name} data have token id {wrong} in {column}"
                raise ValueError(f"{what}, and {_names(trainer, size)}")
    padding = getattr(trainer.processing_class, "pad_token_id", None)
    if isinstance(padding, int) and padding >= size:
        token = getattr(trainer.processing_class, "pad_token", None)
        raise ValueError(
            f"the padding token {token!r} has id {padding}, and {_names(trainer, size)}"
        )


def check_examples(trainer: Any, examples: Sequence[Mapping[str, Any]]) -> None:
    """Refuse candidates with ids that the model of a trainer does not have.

    Args:
        trainer: in training, on data that `check_token_ids` cannot read beforehand.
        examples: as they were drawn.

    Raises:
        ValueError: such an id, in one line with the tokenizer and the model.
    """
    size = None if isinstance(trainer.train_dataset, Dataset) else vocabulary_size(trainer.model)
    if size is None:
        return
    for example in examples:
        ids = torch.as_tensor(example["input_ids"])
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            wrong = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            what = f"the training data have token id {wrong} in input_ids"
            raise ValueError(f"{what}, and {_names(trainer, size)}")


def data_sets(trainer: Any) -> dict[str, Any]:
    """Return what a trainer trains on and evaluates, by what messages call it."""
    evaluated = trainer.eval_dataset
    parts = {"training": trainer.train_dataset} | (
        {f"evaluation ({name})": part for name, part in evaluated.items()}
        if isinstance(evaluated, Mapping)
        else {"evaluation": evaluated}
    )
    return {name: dataset for name, dataset in parts.items() if dataset is not None}


def tokens_used(dataset: Dataset) -> Tensor:
    """Return which ids a data set has in its columns of token ids, int64, ascending.

    Example:
        >>> tokens_used(Dataset.from_dict({"input_ids": [[7, 3], [3]], "labels": [[-100, 3], [9]]}))
        tensor([3, 7, 9])
    """
    found = {
        token
        for column in {"input_ids", "labels"} & set(dataset.column_names)
        for ids in _ids(_tables(dataset, column), column)
        for token in pc.unique(ids).to_pylist()
    }
    return torch.tensor(sorted(found - {IGNORED_LABEL, None}), dtype=torch.int64)


def vocabulary_size(model: Any) -> int | None:
    """Return how many tokens a model has embeddings for.

    Args:
        model: of transformers or PEFT, on one process or sharded.

    Returns:
        ``None`` where that cannot be told.
    """
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    # Sharded weights may have no rows here.
    size = getattr(embedding, "num_embeddings", None)
    return size if isinstance(size, int) and size > 0 else None


def _id_beyond(dataset: Any, column: str, size: int) -> int | None:
    """An id below 0, or of ``size`` or more, that a column of a data set has."""
    if not isinstance(dataset, Dataset) or column not in dataset.column_names:
        return None
    if dataset.format["type"] == "custom":  # computed when an example is asked for
        return None
    for found in _ids(_tables(dataset, column), column):
        ids = found.filter(pc.not_equal(found, IGNORED_LABEL)) if column == "labels" else found
        bounds = pc.min_max(ids).as_py()
        for wrong in (bounds["min"], bounds["max"]):
            if wrong is not None and not 0 <= wrong < size:
                return int(wrong)
    return None


def _tables(dataset: Dataset, column: str) -> Iterable[pa.Table]:
    """A column of a data set, some rows at a time."""
    table = dataset.select_columns(column).with_format("arrow")
    tables: Iterable[pa.Table] = table.iter(batch_size=_BATCH_ROWS)
    return tables


def _ids(tables: Iterable[pa.Table], column: str) -> Iterable[Any]:
    """The ids of each table, where its column is of lists of whole numbers."""
    for table in tables:
        values = table[column]
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
            return
        ids = pc.list_flatten(values)
        if not pa.types.is_integer(ids.type):
            return
        yield ids


def _names(trainer: Any, size: int) -> str:
    """What the model has, and whose tokenizer is whose."""
    config = getattr(trainer.model, "config", None)
    model = getattr(config, "_name_or_path", None) or type(trainer.model).__name__
    tokenizer = getattr(trainer.processing_class, "name_or_path", None) or "given"
    return (
        f"model {model} has embeddings for ids 0 to {size - 1}: is tokenizer {tokenizer} that of "
        "this model? For tokens that were added to it, resize the model's embeddings"
    )
