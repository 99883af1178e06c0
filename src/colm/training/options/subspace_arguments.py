"""The options of randomised subspace optimisation, beside those of selection.

``subspace_rank`` turns it on; selection and subspaces go together, and either goes alone. Symbols:
W a weight, P its random directions, B what is trained in W + B P.
"""

from dataclasses import dataclass

from colm.checks import as_names, check_choice, check_number
from colm.memory.subspaces.optimizer import MOMENTS
from colm.memory.subspaces.projection import SAMPLINGS
from colm.memory.subspaces.rounding import ROUNDINGS
from colm.memory.subspaces.subspaces import OTHERS
from colm.training.options.selection_arguments import option

NONE = "none"
#: Optimisers of the plain trainer that subspaces take the place of.
ADAMW = ("adamw_torch", "adamw_torch_fused")


@dataclass
class SubspaceArguments:
    """The options of randomised subspace optimisation.  Paper: RSO, arXiv 2502.07222."""

    subspace_rank: int | None = option(
        None,
        "Trains each weight matrix of the decoder's layers along so many random directions, which "
        "are drawn again and again. Off unless set; needs a model without adapters and `optim` "
        "`adamw_torch` or `adamw_torch_fused`.",
    )
    subspace_inner_steps: int = option(
        200,
        "Optimiser steps along the same directions, before W becomes W + B P and others are drawn.",
    )
    subspace_sampling: str = option(
        "haar",
        "How directions are drawn: `haar`, orthonormal and scaled, or `gaussian`, with variance "
        "1 / rank.",
        SAMPLINGS,
    )
    subspace_proximal: float | None = option(
        None,
        "eta of the proximal term, the squared norm of B over 2 eta. Default: there is none.",
    )
    subspace_moments: str = option(
        "averaged",
        "Adam's moments of B when directions are drawn. `averaged`: second moments become their "
        "mean over the directions, first ones zero; `reset`: both zero; `kept`: both stay.",
        MOMENTS,
    )
    subspace_rounding: str = option(
        "stochastic",
        "How merged weights are rounded to bfloat16: `stochastic` loses no small update on "
        "average; `nearest` does.",
        ROUNDINGS,
    )
    subspace_others: list[str] = option(  # noqa: RUF009
        list(OTHERS),
        "What else is trained, as usual: any of `norms` (and biases), `embeddings`, `head` and "
        "`rest` (other matrices); or `none`.",
    )

    def __post_init__(self) -> None:
        """Check each option.

        Raises:
            ValueError: one line that names the option, its value and the choices.
        """
        self.subspace_others = as_names("subspace_others", self.subspace_others)
        for name in self.subspace_others:
            if self.subspace_others != [NONE]:
                check_choice("subspace_others", name, OTHERS)
        check_choice("subspace_sampling", self.subspace_sampling, SAMPLINGS)
        check_choice("subspace_moments", self.subspace_moments, MOMENTS)
        check_choice("subspace_rounding", self.subspace_rounding, ROUNDINGS)
        check_number("subspace_inner_steps", self.subspace_inner_steps, least=1, whole=True)
        if self.subspace_proximal is not None:
            check_number("subspace_proximal", self.subspace_proximal, above=0)
        if self.subspace_rank is not None:
            check_number("subspace_rank", self.subspace_rank, least=1, whole=True)
        super().__post_init__()  # type: ignore[misc]


def others_trained(args: SubspaceArguments) -> list[str]:
    """Return what is trained beside the subspaces, with none as an empty list."""
    return [] if args.subspace_others == [NONE] else args.subspace_others
