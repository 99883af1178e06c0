"""What a caller may hand to a selector: rows observed of the candidates, and their sources."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from torch import Tensor

from colm.gradients.observation import Observed

Observation = Tensor | Observed | Callable[[Tensor], Tensor | Observed] | None


def as_observed(values: Tensor | Observed | None) -> Observed:
    """Return ``values`` as they are; a bare tensor as gradients, ``None`` as nothing observed."""
    if isinstance(values, Observed):
        return values
    return Observed(gradients=values)


def number_of_rows(observed: Observed) -> int | None:
    """Return n, or ``None`` where nothing was observed.

    Raises:
        ValueError: the parts have unequal numbers of rows.
    """
    lengths = {name: len(values) for name, values in _parts(observed).items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise ValueError(f"observed must have one row a candidate in each part; got {told}.")
    return next(iter(lengths.values()), None)


def take_rows(observed: Observed, rows: Tensor) -> Observed:
    """Return what was observed of ``rows [k]``, in that order."""
    return Observed(
        **{name: values[rows.to(values.device)] for name, values in _parts(observed).items()}
    )


def source_names(
    observed: Observation, sources: Sequence[str] | None, *, default: str
) -> list[str]:
    """Return the source of each candidate as a string, ``default`` where none are named.

    Raises:
        ValueError: there are no candidates, or sources and rows differ in number.
    """
    n = None if callable(observed) else number_of_rows(as_observed(observed))
    if sources is None:
        if n is None:
            raise ValueError("Pass sources, one name a candidate, or features as a tensor.")
        return [default] * n
    if n is not None and len(sources) != n:
        raise ValueError(f"{len(sources)} sources were passed for {n} rows of features.")
    if len(sources) == 0:
        raise ValueError("There are no candidates to choose from.")
    return [str(name) for name in sources]


def _parts(observed: Observed) -> dict[str, Tensor]:
    """What is there, by name."""
    parts = {field.name: getattr(observed, field.name) for field in fields(observed)}
    return {name: values for name, values in parts.items() if values is not None}
