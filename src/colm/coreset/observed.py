"""What one look at a batch of examples shows of each, and what a caller may hand to a selector.

Symbols: n examples, d feature size, e hidden size.
"""

from dataclasses import dataclass, fields

from torch import Tensor

from colm.checks import check_matrix, check_tensor, check_vector

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


def as_observed(values: Tensor | Observed | None) -> Observed:
    """Return ``values`` as they are; a bare tensor as gradients, ``None`` as nothing observed.

    Raises:
        ValueError: they are none of these, or a part is not ``[n, d]``, or losses not ``[n]``.
    """
    if callable(values):
        raise ValueError(
            "observed must be tensors, one row a candidate; got a function: to look only at what "
            "must be chosen among, call split, observe the rows it returns, and call choose."
        )
    observed = values if isinstance(values, Observed) else Observed(gradients=values)
    for name, part in _parts(observed).items():
        option = f"observed {name}"
        if name == "losses":
            check_tensor(option, part, "a vector")
            check_vector(option, part, part.numel())
        else:
            check_matrix(option, part)
    return observed


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


def _parts(observed: Observed) -> dict[str, Tensor]:
    """What is there, by name."""
    parts = {field.name: getattr(observed, field.name) for field in fields(observed)}
    return {name: values for name, values in parts.items() if values is not None}
