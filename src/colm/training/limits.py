"""What selection cannot work with, refused before anything is trained, in one clear line each."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from colm.coreset.registry import get_selector
from colm.coreset.selector import SMALL_SOURCES_AUTO, SMALL_SOURCES_NONE
from colm.training.config import SelectionArguments

DEFAULT_SOURCE_COLUMN = "source"
SHOWN_NAMES = 20

logger = logging.getLogger(__name__)


def check_arguments(args: SelectionArguments) -> None:
    """Refuse the options that selection cannot work with, and force off dispatching.

    Raises:
        ValueError: such an option.
    """
    selector = get_selector(args.selector)
    kept_whole = args.small_sources not in ([SMALL_SOURCES_NONE], [SMALL_SOURCES_AUTO])
    by_source = selector.needs_features or selector.keeps_small_sources or kept_whole
    if getattr(args, "packing", False) and by_source:
        raise ValueError(
            f"packing=True mixes examples and their sources, and selector={args.selector!r} "
            "selects single examples: set packing=False, or padding_free=True with max_length=None."
        )
    strategy = getattr(args, "train_sampling_strategy", None)
    if strategy == "batch_rebalance":
        raise ValueError(
            "train_sampling_strategy='batch_rebalance' ignores the batch size, so no candidates "
            "can be drawn with it: use 'random', 'sequential' or 'group_by_length'."
        )
    batch_size = args.per_device_train_batch_size  # type: ignore[attr-defined]
    if round(batch_size * args.candidate_ratio) == batch_size:
        raise ValueError(
            f"candidate_ratio={args.candidate_ratio} of per_device_train_batch_size={batch_size} "
            "draws no more than are kept: raise either, or set candidate_ratio=1."
        )
    if args.n_gpu > 1:  # type: ignore[attr-defined]
        raise ValueError(
            "nn.DataParallel is not supported: start one process a GPU with accelerate launch or "
            "torchrun, or make one visible with CUDA_VISIBLE_DEVICES."
        )
    # Dispatching would concatenate batches across processes; pools cannot be.
    args.accelerator_config.dispatch_batches = False  # type: ignore[attr-defined]


def check_parallelism(accelerator: Any, args: SelectionArguments) -> None:
    """Refuse ways of spreading the work that selection does not know.

    Raises:
        ValueError: such a way.
    """
    if args.selection_scope == "global" and accelerator.num_processes > 1:
        raise ValueError(
            f"selection_scope='global' is not available with {accelerator.num_processes} "
            "processes: use selection_scope='local'."
        )
    parallelism = getattr(accelerator, "parallelism_config", None)
    for kind in ("cp", "sp"):
        if parallelism is not None and getattr(parallelism, f"{kind}_enabled", False):
            raise ValueError(
                f"{kind}_size > 1 splits single examples across processes, which selection does "
                f"not support: set {kind}_size=1."
            )


def check_examples(dataset: Any) -> None:
    """Refuse training data that is not tokenised text.

    Raises:
        ValueError: there are no token ids; the message says which columns there are.
    """
    columns = _column_names(dataset)
    if columns and "input_ids" not in columns:
        raise ValueError(
            "selection needs tokenised text, and the training data has no column 'input_ids'; its "
            f"columns are {', '.join(columns)}."
        )


def resolve_source_column(name: str | None, dataset: Any) -> str | None:
    """Return the column that names the source: the one asked for, or 'source' where there is one.

    Raises:
        ValueError: the column asked for is missing; the message says which there are.
    """
    columns = _column_names(dataset)
    if name is None:
        return DEFAULT_SOURCE_COLUMN if DEFAULT_SOURCE_COLUMN in columns else None
    if name not in columns:
        raise ValueError(
            f"source_column {name!r} is not in the training data; its columns are "
            f"{', '.join(columns) or 'none'}."
        )
    return name


def check_small_sources(names: Sequence[str], sizes: Mapping[str, int] | None) -> None:
    """Refuse names of small sources that the data set does not have.

    Raises:
        ValueError: such a name; the message says which sources there are.
    """
    if sizes is None or list(names) in ([SMALL_SOURCES_AUTO], [SMALL_SOURCES_NONE]):
        return
    unknown = [name for name in names if name not in sizes]
    if unknown:
        known = sorted(sizes)
        more = f" and {len(known) - SHOWN_NAMES} more" if len(known) > SHOWN_NAMES else ""
        raise ValueError(
            f"small_sources names {', '.join(map(repr, unknown))}, which the training data does "
            f"not have; its sources are {', '.join(known[:SHOWN_NAMES])}{more}."
        )


def report_unlabelled(name: str, given: Any, left: Any, args: Any) -> None:
    """Say how many examples the trainer left out: cut to ``max_length``, they have no labels.

    Args:
        name: of the data set.
        given: the data set as it was passed.
        left: what the trainer made of it.
        args: the options.

    Raises:
        ValueError: none is left.
    """
    if not isinstance(given, Dataset) or not isinstance(left, Dataset):
        return
    if getattr(args, "packing", False) or len(given) == len(left):
        return
    length = getattr(args, "max_length", None)
    if len(left) == 0:
        raise ValueError(
            f"none of the {len(given)} {name} examples has label tokens within max_length {length}"
        )
    logger.warning(
        "left out %d of %d %s examples: no label tokens within max_length %s",
        len(given) - len(left),
        len(given),
        name,
        length,
    )


def _column_names(dataset: Any) -> list[str]:
    """Columns of a data set, or the keys of its first example where it does not list them."""
    names = getattr(dataset, "column_names", None)
    if names is not None:
        return list(names)
    first = next(iter(dataset), None) if dataset is not None else None
    return list(first) if isinstance(first, Mapping) else []
