"""What the libraries say of a checkpoint that does not fit a run, in one line.

Most such checkpoints are told by `identity`; this is for those that do not say which run they
belong to.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

#: Libraries name every weight that does not fit.
_LONGEST_REASON = 300


def options_of_groups(optimizer: Any) -> list[list[str]]:
    """Return the names of the options of each group of an optimiser."""
    return [[*group] for group in getattr(optimizer, "param_groups", ())]


def check_groups(optimizer: Any, before: Sequence[Sequence[str]]) -> None:
    """Refuse what another kind of optimiser left, which PyTorch loads without a word.

    Args:
        optimizer: into which a state was loaded.
        before: what `options_of_groups` gave of it before that.

    Raises:
        ValueError: an option of this optimiser is missing in it.
    """
    now = options_of_groups(optimizer)
    pairs = zip(before, now, strict=True)
    missing = [name for had, has in pairs for name in had if name not in has]
    if missing:
        raise ValueError(f"it has no {missing[0]!r} for {type(optimizer).__name__}")


@contextmanager
def fitting(checkpoint: str | None) -> Iterator[None]:
    """Turn what the libraries say of a checkpoint that does not fit into one line.

    Args:
        checkpoint: that is loaded.

    Raises:
        ValueError: it belongs to another model or optimiser.
    """
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise ValueError(
            f"resume_from_checkpoint: {checkpoint} does not fit this run's model or optimiser: "
            f"{reason}"
        ) from error
