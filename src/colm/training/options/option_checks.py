"""What each option of selection may be, one by one and beside the others.

Checked when a configuration is made, before there is a model or data; what these allow is for
`colm.training.limits`.
"""

from typing import Any

from colm.checks import check_choice, check_number
from colm.coreset.candidates import EXAMPLE_WEIGHTS
from colm.coreset.coreset_selector import NORMALISATIONS
from colm.coreset.mixture import ALLOCATIONS
from colm.coreset.registry import get_selector
from colm.coreset.similarity import METRICS
from colm.coreset.sparsify import CRITERIA
from colm.gradients.block_gradients import check_depth
from colm.gradients.example_observer import LAYERS, VOCABULARIES, check_layers
from colm.gradients.projections import PROJECTIONS
from colm.gradients.skipping import check_share
from colm.gradients.value_gradients import ESTIMATORS, REDUCTIONS
from colm.training.proxy import check_proxy
from colm.training.step.draw import CANDIDATE_SAMPLINGS

SCOPES = ("local", "global")

_CHOICES = {
    "gradient": ESTIMATORS,
    "gradient_reduction": REDUCTIONS,
    "gradient_layers": LAYERS,
    "selection_vocabulary": VOCABULARIES,
    "normalisation": NORMALISATIONS,
    "example_weights": EXAMPLE_WEIGHTS,
    "dimension_criterion": CRITERIA,
    "distance": METRICS,
    "allocation": ALLOCATIONS,
    "candidate_sampling": CANDIDATE_SAMPLINGS,
    "selection_scope": SCOPES,
}
_LEAST_WHOLE_NUMBER = {
    "num_directions": 1,
    "kept_dimensions": 1,
    "source_clusters": 2,
    "selection_tokens": 1,
    "match_every": 0,
}
_MAY_BE_NONE = {"kept_dimensions", "source_clusters", "selection_tokens"}


def check_options(args: Any) -> None:
    """Refuse an option that is out of its range, or does not go with another.

    Args:
        args: `SelectionArguments`, with every option settled.

    Raises:
        ValueError: one line that names the option, its value and the choices.
    """
    get_selector(args.selector)
    for option, choices in _CHOICES.items():
        check_choice(option, getattr(args, option), choices)
    for name in args.projections or [""]:
        check_choice("projections", name, PROJECTIONS)
    if len(set(args.projections)) < len(args.projections):
        raise ValueError(f"projections must differ from each other; got {args.projections!r}.")
    check_layers(args.gradient_layers, args.selection_vocabulary, args.gradient)
    check_number("gradient_depth", args.gradient_depth, above=0)
    check_depth(args.gradient_depth)
    check_number("candidate_ratio", args.candidate_ratio, least=1)
    check_number("perturbation_scale", args.perturbation_scale, above=0)
    check_number("skipped_layers", args.skipped_layers, least=0)
    check_share(args.skipped_layers)
    check_proxy(args)
    for option, least in _LEAST_WHOLE_NUMBER.items():
        value = getattr(args, option)
        if value is not None or option not in _MAY_BE_NONE:
            check_number(option, value, least=least, whole=True)
    if args.source_clusters is not None and args.source_column is not None:
        raise ValueError(
            f"source_clusters={args.source_clusters} makes sources of its own, and "
            f"source_column={args.source_column!r} names others: set one of them."
        )
