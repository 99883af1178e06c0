"""``CoLMConfig``: TRL's ``SFTConfig`` plus the switches of CoLM.

Every field has the name, the default and the meaning that ``docs/configuration.md`` puts beside the
paper. What is not given of the fields that a selector decides is as its record says (see
`colm.coreset.registry`); after construction every field holds a value. Symbols: n examples in the
large mini-batch, r kept, d feature size, h kept dimensions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments
from trl import SFTConfig

from colm.checks import as_names
from colm.coreset.coreset_selector import NORMALIZATIONS
from colm.coreset.mixture import ALLOCATIONS
from colm.coreset.registry import available_selectors
from colm.coreset.similarity import METRICS
from colm.coreset.sparsify import CRITERIA
from colm.gradients.projections import PROJECTIONS, SPREAD
from colm.gradients.value_gradients import ESTIMATORS
from colm.training.options.by_selector import options_by_selector
from colm.training.options.former import refuse_former
from colm.training.options.hardware import supports_bf16
from colm.training.options.option_checks import SCOPES, check_options
from colm.training.options.plain_options import check_plain_options
from colm.training.options.subspace_arguments import SubspaceArguments
from colm.training.step.draw import CANDIDATE_SAMPLINGS

#: What people set of the options of selection, in the order that help shows; the rest is for who
#: compares methods.
OFTEN_SET = (
    "candidate_ratio",
    "selector",
    "source_column",
    "small_sources",
    "candidate_sampling",
    "gradient",
    "weighted",
    "source_clusters",
    "selection_scope",
    "distance",
)


def _governed(meaning: str, choices: Iterable[str] = ()) -> Any:
    """A field whose value, where none is given, is what the selector's record says."""
    metadata: dict[str, Any] = {"help": meaning}
    if choices:
        metadata["choices"] = list(choices)
    return field(default=None, metadata=metadata)


@dataclass
class SelectionArguments:
    """The options of selection, shared by `CoLMConfig` and `CoLMTrainingArguments`.

    With ``per_device_train_batch_size`` and ``gradient_accumulation_steps`` you set r, what is
    trained on and what must fit in memory; ``candidate_ratio`` times as many are looked at.
    """

    candidate_ratio: float = field(
        default=2.0,
        metadata={
            "help": "Candidates drawn for each example kept, n / r. 1 turns selection off. n = "
            "per_device_train_batch_size * candidate_ratio is rounded to a whole number."
        },
    )
    selector: str = field(
        default="colm",
        metadata={
            "help": "The method: how the kept examples are chosen, and what the options are that "
            "are not given. colm (the paper's: medoids of gradients, source by source, small "
            "sources whole), ssm (its first version: medoids of all candidates together, "
            "every source drawn equally often), balanced_sampling (at random, all with the same "
            "probability, balanced by gradients: of candidates that are alike, a part), "
            "importance_sampling (at random, those with large gradients more often and with a "
            "smaller weight), gradient_matching (examples and weights whose gradient is closest to "
            "that of all candidates), mean_matching (the kept mean gradient closest, small sources "
            "whole), random, none (keep every candidate), or a name registered with "
            f"colm.register_selector. All: {', '.join(available_selectors())}."
        },
    )
    gradient: str = _governed(
        "Feature of an example. exact: the gradient of its loss in the last V projection; "
        "directional: that gradient along random directions; zeroth_order: SPSA, the paper's "
        "finite differences along random directions.",
        ESTIMATORS,
    )
    num_directions: int = field(
        default=1,
        metadata={
            "help": "Random directions averaged by the directional and zeroth_order gradients."
        },
    )
    perturbation_scale: float = field(
        default=1e-3,
        metadata={"help": "Step eps of the finite difference of the zeroth_order gradient."},
    )
    projections: list[str] = _governed(  # noqa: RUF009
        "Layers of the last decoder block whose gradients are the features: any of q, k, v, o "
        "(attention) and mlp; or spread: all linear maps of two blocks, the last and the one "
        "a sixth of the layers back, with a softmax over the tokens that the candidates contain.",
        (*PROJECTIONS, SPREAD),
    )
    prompt_features: bool = field(
        default=False,
        metadata={
            "help": "Append the last hidden state of the prompt to the features, for data whose "
            "sources are unknown."
        },
    )
    normalization: str = _governed(
        "adam: features are what Adam makes of each gradient; rms: gradients over their root mean "
        "square among the candidates; none: the gradients.",
        NORMALIZATIONS,
    )
    kept_dimensions: int | None = field(
        default=None,
        metadata={
            "help": "Feature dimensions kept per source, h. Default: the model's hidden size."
        },
    )
    dimension_criterion: str = _governed(
        "How the kept dimensions are chosen: largest |mean feature|, |weight|, "
        "|weight * mean gradient|, or at random.",
        CRITERIA,
    )
    distance: str = _governed("Distance between features.", METRICS)
    allocation: str = _governed(
        "How large sources share the kept examples: proportional to their candidates, "
        "balanced, or none (all sources compete together).",
        ALLOCATIONS,
    )
    weighted: bool = _governed(
        "Weigh each kept example in the training loss by the candidates it stands for."
    )
    source_column: str | None = field(
        default=None,
        metadata={
            "help": "Column that names the source of an example. Default: 'source' where the data "
            "set has it, else all examples count as one source."
        },
    )
    source_clusters: int | None = field(
        default=None,
        metadata={
            "help": "For data whose sources are unknown: before training, cluster the examples by "
            "the model's hidden states into as many groups, which then are the sources."
        },
    )
    small_sources: list[str] = _governed(  # noqa: RUF009
        "Sources whose candidates are always kept: auto (those with fewer examples than the "
        "average source), none, or names.",
    )
    candidate_sampling: str = _governed(
        "How candidates are drawn: uniform (each example once an epoch), unimax (every source "
        "equally often, as far as none of its examples is drawn more than 4 times in the run on "
        "average), or inverse_source_size (with replacement, every source equally often).",
        CANDIDATE_SAMPLINGS,
    )
    reference_behaviour: bool = field(
        default=False,
        metadata={
            "help": "Follow the papers' published code where it differs from them: random "
            "directions drawn once a run, selections that follow the order of the batch."
        },
    )
    selection_scope: str = field(
        default="local",
        metadata={
            "help": "local: each process selects among its own candidates. global: among all; with "
            "one process the two are the same.",
            "choices": list(SCOPES),
        },
    )
    selection_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens, padding included, in one forward pass of the selection. Default: "
            "as many as take no more memory than a micro-batch of training, at most 8192."
        },
    )
    match_every: int = field(
        default=0,
        metadata={
            "help": "Log, every so many steps, how well the kept examples' gradient matches that "
            "of all candidates; it takes a backward pass of each candidate. 0: never."
        },
    )

    def __new__(cls, *_args: Any, **options: Any) -> "SelectionArguments":
        """Name what took the place of an option that there was.

        Raises:
            ValueError: such an option is given.
        """
        refuse_former(options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Settle what the selector decides and check each option.

        Raises:
            ValueError: one line that names the option, its value and the choices.
        """
        for option, value in options_by_selector(self.selector).items():
            if getattr(self, option) is None:
                setattr(self, option, value)
        self.small_sources = as_names("small_sources", self.small_sources)
        self.projections = as_names("projections", self.projections)
        check_options(self)
        check_plain_options(self)
        super().__post_init__()  # type: ignore[misc]


@dataclass
class CoLMConfig(SelectionArguments, SubspaceArguments, SFTConfig):
    """Configuration of `colm.CoLMSFTTrainer`: ``SFTConfig``, selection and subspaces.

    Where neither ``bf16`` nor ``fp16`` is given, ``bf16`` is on as in TRL, but only where it can
    be: TRL's own default stops on a machine without an accelerator.
    """

    def __post_init__(self) -> None:
        """Settle ``bf16``, then everything else.

        Raises:
            ValueError: one line that names the option, its value and the choices.
        """
        given: bool | None = self.bf16  # type: ignore[has-type]
        if given is None and not supports_bf16(self.use_cpu):
            self.bf16 = False
        super().__post_init__()


@dataclass
class CoLMTrainingArguments(SelectionArguments, SubspaceArguments, TrainingArguments):
    """Configuration of `colm.CoLMTrainer`: ``TrainingArguments``, selection and subspaces."""


def with_selection_arguments(
    args: Any, arguments_class: type[SelectionArguments]
) -> SelectionArguments:
    """Add the defaults of selection to a plain configuration, as TRL adds its own.

    Args:
        args: a configuration of transformers, TRL or colm, or ``None``.
        arguments_class: what a plain one becomes.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(args, SelectionArguments):
        return args
    if args is None:
        return arguments_class()
    if not isinstance(args, TrainingArguments):
        raise ValueError(f"args must be a {arguments_class.__name__}; got {type(args).__name__}.")
    known = {field.name for field in fields(arguments_class)}
    given = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    return arguments_class(**{name: value for name, value in given.items() if name in known})
