"""The options of selection: what each is, may be and does, said once.

`colm.CoLMConfig`, the command line, its help and the tables of ``docs/configuration.md`` are made
of these fields. Where a selector decides an option that is not given, construction takes it from
the selector's registration (`colm.coreset.registry`). Symbols: n candidates and r kept of a step,
h kept dimensions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from colm.checks import as_names, as_numbers
from colm.coreset.coreset_selector import NORMALIZATIONS
from colm.coreset.features import CRITERIA
from colm.coreset.mixture import ALLOCATIONS, CANDIDATE_SAMPLINGS
from colm.coreset.similarity import METRICS
from colm.gradients.projections import PROJECTIONS, SPREAD
from colm.gradients.value_gradients import ESTIMATORS
from colm.training.options.by_selector import options_by_selector
from colm.training.options.former import refuse_former
from colm.training.options.option_checks import (
    ARRANGEMENTS,
    BY_LENGTH,
    LOSS_AVERAGES,
    SCOPES,
    SHARES_OF,
    STORED_LOSS_RULES,
    TOKEN,
    check_options,
)
from colm.training.options.plain_options import check_plain_options

#: Takes the weights of a recipe away, where ``None`` cannot be said.
NO_VALUE = "none"
#: The options that each way to draw goes by.
OPTIONS_OF_DRAWS = {
    "unimax": ("most_repeats",),
    "temperature": ("sampling_exponent", "most_repeats"),
    "weights": ("source_weights", "source_weights_by", "most_repeats"),
    "adaptive": ("most_repeats",),
}

#: The ten options of selection that people set, in the order that help and docs show; the rest is
#: for who compares methods.
OFTEN_SET = (
    "candidate_ratio",
    "selector",
    "source_column",
    "small_sources",
    "candidate_sampling",
    "source_weights",
    "source_clusters",
    "stored_losses",
    "arrange",
    "selection_scope",
)


def option(default: Any, meaning: str, choices: Iterable[str] = ()) -> Any:
    """A field of a configuration, with what is said of it in help and docs.

    Args:
        default: its value where none is given; ``None`` also where the selector decides.
        meaning: what it does, in Markdown without links; help shows it without the marks.
        choices: the values that there are; none where they cannot be listed.
    """
    metadata: dict[str, Any] = {"help": meaning}
    if choices:
        metadata["choices"] = list(choices)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class SelectionArguments:
    """The options of selection, shared by `CoLMConfig` and `CoLMTrainingArguments`.

    ``per_device_train_batch_size`` is what must fit in memory; times
    ``gradient_accumulation_steps`` it is r, what a step trains on; ``candidate_ratio`` times as
    many are drawn.
    """

    candidate_ratio: float = option(
        2.0,
        "n / r: candidates drawn for each example trained on. 1 turns selection off: all that is "
        "drawn is trained on. `per_device_train_batch_size` * `candidate_ratio` is rounded. Where "
        "the data has fewer examples than a step would draw, all are drawn, and as many kept.",
    )
    selector: str = option(
        "colm",
        "The method: how the kept examples are chosen, and the defaults of the options that depend "
        "on it. `colm` keeps medoids of gradients, source by source, and small sources whole. Or a "
        "name registered with `colm.register_selector`.",
    )
    source_column: str | None = option(
        None,
        "Column that names an example's source, as text, a number or a class label. Default: "
        "`source` where the data set has it, else all examples are one source.",
    )
    small_sources: list[str] = option(  # noqa: RUF009
        None,
        "Sources always kept whole: `auto`, those with fewer examples than the average source; "
        "`none`; or names.",
    )
    candidate_sampling: str = option(
        None,
        "How candidates are drawn: `uniform`, each once an epoch; `unimax`, sources equally often; "
        "`temperature`, by a power of their size; `weights`, by `source_weights`; `adaptive`, half "
        "alike, half where the training loss still falls; or `inverse_source_size`, sources "
        "equally often, with replacement.",
        CANDIDATE_SAMPLINGS,
    )
    source_weights: dict[str, float] | str | None = option(  # noqa: RUF009
        None,
        "Shares of the draws by source, as numbers in any scale: `{web: 1, code: 2}` in a recipe, "
        "`web=1 code=2` on the command line; `none` takes a recipe's away. Every source has one; 0 "
        "leaves it out. Brings `candidate_sampling` `weights`.",
    )
    source_weights_by: str = option(
        "examples",
        "What `source_weights` are shares of: `examples`, or label `tokens`.",
        SHARES_OF,
    )
    sampling_exponent: float = option(
        0.5,
        "With `temperature`, sources are drawn in proportion to their size to this power: 1, as "
        "the data are; 0, all equally often.",
    )
    most_repeats: float | None = option(
        None,
        "Draws of an example in the run, on average over its source, before what its source would "
        "get goes to others; `inf`: any number. Default: 4, and `inf` with `weights`.",
    )
    arrange: str = option(
        BY_LENGTH,
        "How the examples of a step share its micro-batches: `by_length`, those of like length "
        "together: less padding, the same gradient, and `eval_loss` is the mean over all label "
        "tokens; or `as_drawn`, in order: with `candidate_ratio=1`, TRL's training to the bit.",
        ARRANGEMENTS,
    )
    gradient: str = option(
        None,
        "The feature of an example: `exact`, the gradient of its loss in the last V projection; "
        "`directional`, that gradient along random directions; `zeroth_order`, SPSA: finite "
        "differences along them.",
        ESTIMATORS,
    )
    weighted: bool = option(
        None,
        "Multiplies the loss of each kept example by how many candidates it stands for; a step's "
        "loss is then the weighted mean over label tokens.",
    )
    loss_average: str = option(
        TOKEN,
        "What the loss of a step is an average over: `token`, its label tokens, as in TRL; "
        "`example`, its examples; or `root`, between them: examples count by the root of their "
        "label tokens; with `weighted`, times the weight. Exact over micro-batches and processes. "
        "It needs a loss that is the mean over label tokens.",
        LOSS_AVERAGES,
    )
    stored_losses: str | None = option(
        None,
        "Which examples an epoch draws, by the losses that training has told of each: `hard`, the "
        "`stored_share` with the highest; `infobatch`, all but a random `stored_share` of those "
        "below the mean; `tailsft`, all but the `stored_share` whose loss has fallen most. "
        "Default, and with `none`: every example.",
        (*STORED_LOSS_RULES, NO_VALUE),
    )
    stored_share: float = option(
        0.5,
        "The share that `stored_losses` goes by: delta of `hard`, r of `infobatch`, gamma of "
        "`tailsft`. Above 0 and below 1.",
    )
    source_clusters: int | None = option(
        None,
        "For data whose sources are unknown: before training, the model reads every example once, "
        "k-means puts their hidden states into so many clusters, and these are the sources. Needs "
        "`pip install 'colm[clusters]'`; checkpoints keep the clusters.",
    )
    selection_scope: str = option(
        "local",
        "Each process selects among its own candidates (`local`), or among all (`global`); with "
        "one process the two are the same.",
        SCOPES,
    )
    distance: str = option(None, "Distance between features: `l1`, `l2` or `cosine`.", METRICS)

    num_directions: int = option(
        1, "Random directions averaged by the `directional` and `zeroth_order` gradients."
    )
    perturbation_scale: float = option(
        1e-3, "Step of the finite difference of the `zeroth_order` gradient."
    )
    projections: list[str] = option(  # noqa: RUF009
        None,
        "Layers of the last decoder block whose gradients, side by side, are the features: any of "
        "`q`, `k`, `v`, `o` and `mlp`; or `spread`: all linear maps of two blocks, the last and "
        "the one a sixth of the layers back, with a softmax over the tokens that the candidates "
        "contain, which is cheaper.",
        (*PROJECTIONS, SPREAD),
    )
    prompt_features: bool = option(
        False,
        "Appends the last hidden state of the prompt to the features of `colm` and `ssm`, for data "
        "whose sources are unknown.",
    )
    normalization: str = option(
        None,
        "`adam`: features are what Adam would make of each gradient; `rms`: gradients over their "
        "root mean square among the candidates; `none`: the gradients, for SGD.",
        NORMALIZATIONS,
    )
    kept_dimensions: int | None = option(
        None,
        "h, dimensions that `colm` keeps in each source, and `ssm` of all candidates. Default: the "
        "model's hidden size.",
    )
    dimension_criterion: str = option(
        None,
        "Which dimensions are kept, the largest of: `gradient`, the mean feature; `weight`; "
        "`weight_gradient`, their product; or `random`.",
        CRITERIA,
    )
    allocation: str = option(
        None,
        "How large sources share what small ones leave: `proportional` to their candidates, "
        "`balanced`, or `none`, all together.",
        ALLOCATIONS,
    )
    reference_behaviour: bool = option(
        False,
        "Follows the published code where it differs from the papers: random directions drawn once "
        "a run instead of at each step; selections that follow the order of the batch, ties going "
        "to the last.",
    )
    selection_tokens: int | None = option(
        None,
        "Most tokens, padding included, in one forward pass of the selection. Default: as many as "
        "take no more memory than a micro-batch of training, at most 8192.",
    )
    match_every: int = option(
        0,
        "Logs, every so many steps, how well the kept examples' gradient in all trained parameters "
        "matches that of all candidates. It takes a backward pass of each candidate. 0: never.",
    )

    def __new__(cls, *_args: Any, **options: Any) -> "SelectionArguments":
        """Refuse options of earlier versions.

        Raises:
            ValueError: one is given; the line names what replaces it.
        """
        refuse_former(options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Fill in the defaults that the selector brings, and check each option.

        Raises:
            ValueError: one line that names the option, its value and the choices.
        """
        self._settle_draws()
        for name, value in options_by_selector(self.selector).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.small_sources = as_names("small_sources", self.small_sources)
        self.projections = as_names("projections", self.projections)
        check_options(self)
        check_plain_options(self)
        super().__post_init__()  # type: ignore[misc]

    def _settle_draws(self) -> None:
        """Read what draws go by: weights of sources bring draws by weights; ``none`` is nothing."""
        if self.stored_losses == NO_VALUE:
            self.stored_losses = None
        if self.source_weights in (NO_VALUE, [NO_VALUE]):
            self.source_weights = None
        if self.source_weights is not None:
            self.source_weights = as_numbers("source_weights", self.source_weights)
            self.candidate_sampling = self.candidate_sampling or "weights"
