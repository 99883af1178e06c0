"""Loaders that hand out examples raw, in pools, where their micro-batches are formed later.

A plain loader collates as it draws, so what shares a micro-batch is settled before anyone knows
what else a step has drawn. Here examples come as the plain trainer's own loader draws them, in the
same order and as many at a time, but uncollated.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.utils.data import IterableDataset

from colm.training.clusters import CLUSTER_COLUMN
from colm.training.example import (
    OWN_KEYS,
    SOURCE_KEY,
    Example,
    Pool,
    PoolCollator,
    without_own_keys,
)
from colm.training.limits import UPDATES_IN_BACKWARD
from colm.training.optimizers import optimizer_name
from colm.training.options.option_checks import BY_LENGTH
from colm.training.step.arrange import arrange, averages_over_step, is_overridden
from colm.training.step.draw import without_source
from colm.training.step.weigh import weigh, weighing_option


def rearranges(trainer: Any) -> bool:
    """Tell whether the micro-batches of a trainer's plain steps are formed of raw examples.

    Else its loader is the plain trainer's: there is nothing to rearrange and no source to tell the
    losses of, or it would change what is learnt, or the examples are not to be had raw.

    Args:
        trainer: about to train, without selection.
    """
    args = trainer.args
    several = args.gradient_accumulation_steps > 1
    tells_sources = trainer._selection.source_column is not None
    by_length = args.arrange == BY_LENGTH and (several or tells_sources)
    return (by_length or _option_of_examples(args) is not None) and obstacle(trainer) is None


def check_pools(trainer: Any) -> None:
    """Refuse options that need to know the examples of a micro-batch where nobody does.

    Args:
        trainer: built, not yet trained.

    Raises:
        ValueError: such an option, and what keeps examples from being known.
    """
    option = _option_of_examples(trainer.args)
    if option is None or trainer.args.candidate_ratio > 1:
        return
    found = obstacle(trainer)
    if found is not None:
        raise ValueError(
            f"{option} needs to know which examples a micro-batch holds, which {found} does not "
            "tell: do without either."
        )


def _option_of_examples(args: Any) -> str | None:
    """The option, if any, for which the examples of a plain step must be known one by one."""
    if args.candidate_sampling == "adaptive":
        return "candidate_sampling='adaptive'"
    if args.stored_losses is not None:
        return f"stored_losses={args.stored_losses!r}"
    return weighing_option(args)


def obstacle(trainer: Any) -> str | None:
    """Return what keeps a trainer's plain steps from being formed of raw examples, if anything."""
    args = trainer.args
    optim = optimizer_name(args)
    # Where columns are not told, each step sees: looking into a stream may lose an example.
    columns = getattr(trainer.train_dataset, "column_names", None) or ["input_ids"]
    obstacles = {
        # Packed rows are full already.
        "packing=True": getattr(args, "packing", False),
        # It fills batches up to so many tokens, whatever the batch size.
        "train_sampling_strategy='batch_rebalance'": (
            getattr(args, "train_sampling_strategy", None) == "batch_rebalance"
        ),
        f"optim={optim!r}": optim in UPDATES_IN_BACKWARD,
        "nn.DataParallel": args.n_gpu > 1,
        "a split of single examples over processes": _splits_sequences(trainer.accelerator),
        "dispatch_batches=True": _dispatches(trainer),
        "a loss that is averaged over each micro-batch by itself": not averages_over_step(trainer),
        "training data without a column 'input_ids'": "input_ids" not in columns,
        "get_train_dataloader of one's own": is_overridden(trainer, "get_train_dataloader"),
    }
    return next((name for name, is_there in obstacles.items() if is_there), None)


@contextmanager
def handing_out_pools(trainer: Any, source_column: str | None) -> Iterator[None]:
    """Let the loaders that a trainer makes meanwhile hand out pools.

    Args:
        trainer: whose collator and columns are put back afterwards.
        source_column: that is handed out, too, although the model does not take it.
    """
    trainer._set_signature_columns_if_needed()
    collator, columns = trainer.data_collator, trainer._signature_columns
    loading = trainer.accelerator.dataloader_config
    dispatches = loading.dispatch_batches
    # Whoever asks for a batch of a pool has the collator that the trainer has then.
    trainer.data_collator = PoolCollator(
        lambda pool: trainer.data_collator(
            [*map(without_own_keys, without_source(pool, source_column))]
        )
    )
    seen = [*([source_column] if source_column else []), *OWN_KEYS]
    trainer._signature_columns = [*columns, *seen]
    # By default accelerate dispatches streams, also where there is nobody to dispatch them to, and
    # batches that are dispatched are joined and cut.
    loading.dispatch_batches = False
    try:
        yield
    finally:
        trainer.data_collator, trainer._signature_columns = collator, columns
        loading.dispatch_batches = dispatches


def rearranged(trainer: Any, pools: Sequence[Pool]) -> list[Mapping[str, Any]]:
    """Form the micro-batches of a step that trains on all it drew.

    Args:
        trainer: whose options, collator and loss decide.
        pools: of its loader, one for each micro-batch.

    Returns:
        As many micro-batches, as drawn where lengths are unknown or how examples are split would
        decide what they weigh.
    """
    parts = [_as_collated(trainer, pool) for pool in pools]
    examples = [example for part in parts for example in part]
    if averages_over_step(trainer) and all(map(_has_length, examples)):
        sources = trainer.drawn(pools).sources
        trainer.record_drawn(sources)
        # Copies: a collator may take out what it reads.
        pairs = zip(examples, sources, strict=True)
        named = [{**example, SOURCE_KEY: source} for example, source in pairs]
        # One micro-batch has nothing to share out, and stays in the order drawn.
        split = arrange(trainer, named, len(parts)) if len(parts) > 1 else [named]
        batches = weigh(trainer, split)
        # Without labels nobody counts their tokens, and each micro-batch is a mean of its own.
        if all("labels" in batch for batch in batches):
            return batches
    return [trainer.data_collator([*map(_collatable, part)]) for part in parts]


def _as_collated(trainer: Any, pool: Pool) -> list[Example]:
    """The examples of a pool as the plain trainer's collator would find them."""
    source_column = trainer._selection.source_column
    is_seen = not trainer.args.remove_unused_columns and source_column != CLUSTER_COLUMN
    if source_column is None or is_seen:
        return list(pool)
    return without_source(list(pool), source_column)


def _collatable(example: Any) -> Any:
    """An example without what only this library asks of it."""
    return without_own_keys(example) if isinstance(example, dict) else example


def _has_length(example: Any) -> bool:
    return isinstance(example, Mapping) and hasattr(example.get("input_ids"), "__len__")


def _splits_sequences(accelerator: Any) -> bool:
    """Whether processes hold parts of the same examples, and count label tokens in their way."""
    parallelism = getattr(accelerator, "parallelism_config", None)
    return any(getattr(parallelism, f"{kind}_enabled", False) for kind in ("cp", "sp"))


def _dispatches(trainer: Any) -> bool:
    """Whether one process reads for the others: by themselves they would draw otherwise."""
    dispatches = trainer.accelerator.dispatch_batches
    if dispatches is None and trainer.accelerator.num_processes > 1:
        return isinstance(trainer.train_dataset, IterableDataset)
    return bool(dispatches)
