"""What each option of selection may be, alone and together with others.

Checked when a configuration is made, before there is a model or data; what these allow is for
`colm.training.limits`.
"""

import math
from typing import Any

from colm.checks import check_choice, check_not_negative, check_number, shown
from colm.coreset.coreset_selector import NORMALIZATIONS
from colm.coreset.features import CRITERIA, WEIGHT_CRITERIA
from colm.coreset.mixture import ALLOCATIONS, CANDIDATE_SAMPLINGS, SMALL_SOURCES_NONE
from colm.coreset.registry import get_selector
from colm.coreset.similarity import METRICS
from colm.gradients.projections import PROJECTIONS, SPREAD
from colm.gradients.value_gradients import ESTIMATORS
from colm.names import shown_name
from colm.training.options.by_selector import brought_by

SCOPES = ("local", "global")
#: How the examples of a step are split into micro-batches.
BY_LENGTH, AS_DRAWN = ARRANGEMENTS = ("by_length", "as_drawn")
SHARES_OF = ("examples", "tokens")

#: What the loss of a step is an average over: label tokens, examples, or between them.
TOKEN, ROOT, EXAMPLE = LOSS_AVERAGES = ("token", "root", "example")
#: By which stored losses of examples draws go.
HARD, INFOBATCH, TAILSFT = STORED_LOSS_RULES = ("hard", "infobatch", "tailsft")

_CHOICES = {
    "loss_average": LOSS_AVERAGES,
    "gradient": ESTIMATORS,
    "normalization": NORMALIZATIONS,
    "dimension_criterion": CRITERIA,
    "distance": METRICS,
    "allocation": ALLOCATIONS,
    "candidate_sampling": CANDIDATE_SAMPLINGS,
    "selection_scope": SCOPES,
    "arrange": ARRANGEMENTS,
    "source_weights_by": SHARES_OF,
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
    _check_projections(args)
    check_number("candidate_ratio", args.candidate_ratio, least=1)
    if args.stored_losses is not None:
        check_choice("stored_losses", args.stored_losses, STORED_LOSS_RULES)
    check_number("stored_share", args.stored_share, above=0, below=1)
    check_number("perturbation_scale", args.perturbation_scale, above=0)
    for option, least in _LEAST_WHOLE_NUMBER.items():
        value = getattr(args, option)
        if value is not None or option not in _MAY_BE_NONE:
            check_number(option, value, least=least, whole=True)
    if args.source_clusters is not None and args.source_column is not None:
        raise ValueError(
            f"source_clusters={args.source_clusters} makes sources of its own, and "
            f"source_column={args.source_column!r} names others: set one of them."
        )
    _check_small_sources(args)
    _check_draws(args)


def _check_draws(args: Any) -> None:
    """Refuse weights that nothing is drawn by, and numbers out of their range."""
    check_number("sampling_exponent", args.sampling_exponent, least=0, most=1)
    if args.most_repeats not in (None, math.inf):
        check_number("most_repeats", args.most_repeats, above=0, instead="inf")
    for name, weight in (args.source_weights or {}).items():
        check_not_negative(f"source_weights of {shown_name(name)!r}", weight)
    if args.source_weights is not None and not any(args.source_weights.values()):
        raise ValueError("source_weights are all 0, so nothing would be drawn: set one above 0.")
    sampling = args.candidate_sampling
    if args.source_weights is None and sampling == "weights":
        raise ValueError("candidate_sampling='weights' needs source_weights: one a source.")
    if args.source_weights is not None and sampling != "weights":
        raise ValueError(
            f"source_weights={shown(args.source_weights)} and candidate_sampling={sampling!r} "
            "cannot both say what is drawn: leave either out."
        )


def _check_projections(args: Any) -> None:
    """Refuse unknown projections, and options that do not go with those of two blocks."""
    for name in args.projections or [""]:
        check_choice("projections", name, (*PROJECTIONS, SPREAD))
    if len(set(args.projections)) < len(args.projections):
        raise ValueError(f"projections must differ from each other; got {args.projections!r}.")
    if SPREAD not in args.projections:
        return
    if len(args.projections) > 1:
        raise ValueError(
            f"projections={args.projections!r}: {SPREAD!r} is all of two blocks, and stands alone."
        )
    spread = f"projections={SPREAD!r}{brought_by(args, 'projections')}"
    if args.gradient != "exact":
        raise ValueError(
            f"{spread} needs gradient='exact'; got gradient={args.gradient!r}: set projections='v' "
            "with it."
        )
    if args.dimension_criterion in WEIGHT_CRITERIA:
        raise ValueError(
            f"{spread} has no one weight that dimension_criterion={args.dimension_criterion!r} "
            "could go by: set projections='v' with it."
        )


def _check_small_sources(args: Any) -> None:
    """Refuse to keep small sources whole where draws are even over sources already."""
    kept, drawn = args.small_sources, args.candidate_sampling
    if args.candidate_ratio == 1 or kept == [SMALL_SOURCES_NONE] or drawn == "uniform":
        return
    raise ValueError(
        f"small_sources={','.join(kept)}{brought_by(args, 'small_sources')} and "
        f"candidate_sampling={drawn}{brought_by(args, 'candidate_sampling')} do not go together: "
        "drawn as often as large ones, small sources would fill all that is kept. Set "
        "candidate_sampling='uniform' or small_sources='none'."
    )
