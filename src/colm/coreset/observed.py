"""What one look at a batch of examples shows of each, and what a caller may hand to a selector.

Symbols: n examples, d feature size, e hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from colm.checks import check_matrix, check_tensor, check_vector, shown
from colm.source_names import as_source_names

OBSERVATIONS = ("gradients", "losses", "hidden", "prompt")


@dataclass(frozen=True)
class Observed:
    """One row an example, of what was asked for; the rest is ``None``.

    Attributes:
        gradients: ``[n, d]`` gradient features, float32 or wider.
        losses: ``[n]`` loss of each example, mean or sum over its label tokens.
        hidden: ``[n, e]`` mean of the last hidden state over an example's tokens.
        prompt: ``[n, e]`` last hidden state at the position that predicts the first label.
    """

    gradients: Tensor | None = None
    losses: Tensor | None = None
    hidden: Tensor | None = None
    prompt: Tensor | None = None


Observation = Tensor | Observed | Callable[[Tensor], Tensor | Observed] | None


def as_observed(values: Tensor | Observed | None) -> Observed:
    """Return ``values`` as they are; a bare tensor as gradients, ``None`` as nothing observed.

    Raises:
        ValueError: they are none of these, or a part is not ``[n, d]``, or losses not ``[n]``.
    """
    observed = values if isinstance(values, Observed) else Observed(gradients=values)
    for name, part in _parts(observed).items():
        option = f"observed {name}"
        if name == "losses":
            check_tensor(option, part, "a vector")
            check_vector(option, part, part.numel())
        else:
            check_matrix(option, part)
    return observed


def check_details(n: int, label_tokens: Tensor | None, weight: Tensor | None) -> None:
    """Refuse what is told of n candidates where it cannot be that.

    Raises:
        ValueError: such a thing.
    """
    if label_tokens is not None:
        check_vector("label_tokens", label_tokens, n)
    if weight is not None:
        check_tensor("weight", weight, "a weight")


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
    """Return the name of each candidate's source, ``default`` where none are named.

    Raises:
        ValueError: there are no candidates, sources and rows differ in number, or a source has no
            name.
    """
    n = None if callable(observed) else number_of_rows(as_observed(observed))
    if sources is not None and (isinstance(sources, str) or not isinstance(sources, Sequence)):
        raise ValueError(f"sources must be a list, one name a candidate; got {shown(sources)}.")
    if sources is None:
        if n is None:
            raise ValueError("Pass sources, one name a candidate, or features as a tensor.")
        return [default] * n
    if n is not None and len(sources) != n:
        raise ValueError(f"{len(sources)} sources were passed for {n} rows of features.")
    if len(sources) == 0:
        raise ValueError("There are no candidates to choose from.")
    return as_source_names(sources)


def _parts(observed: Observed) -> dict[str, Tensor]:
    """What is there, by name."""
    parts = {field.name: getattr(observed, field.name) for field in fields(observed)}
    return {name: values for name, values in parts.items() if values is not None}
