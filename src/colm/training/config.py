"""``CoLMConfig``: TRL's ``SFTConfig`` plus the switches of CoLM.

Every field has the name, the default and the meaning that ``docs/configuration.md`` puts beside the
paper. Symbols: n examples in the large mini-batch, r kept, d feature size, h kept dimensions.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from trl import SFTConfig

from colm.coreset.mixture import ALLOCATIONS
from colm.coreset.registry import get_selector
from colm.coreset.selector import (
    NORMALISATIONS,
    SMALL_SOURCES_AUTO,
    SMALL_SOURCES_NONE,
)
from colm.coreset.similarity import METRICS
from colm.gradients.features import ESTIMATORS, REDUCTIONS
from colm.gradients.sparsify import CRITERIA

SCOPES = ("local", "global")


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
            "help": "How the kept examples are chosen: colm (medoids of gradients, source by "
            "source), mean_matching (the kept mean gradient closest to that of all candidates), "
            "random, none (keep every candidate), or a name registered with colm.register_selector."
        },
    )
    gradient: str = field(
        default="exact",
        metadata={
            "help": "Feature of an example. exact: the gradient of its loss in the last V "
            "projection; directional: that gradient along random directions; zeroth_order: SPSA, "
            "the paper's finite differences along random directions.",
            "choices": list(ESTIMATORS),
        },
    )
    gradient_reduction: str = field(
        default="mean",
        metadata={
            "help": "Loss of an example that features differentiate: mean over its label tokens "
            "(the papers') or their sum (its share of a token-averaged training loss).",
            "choices": list(REDUCTIONS),
        },
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
    normalisation: str = field(
        default="adam",
        metadata={
            "help": "adam: features are what Adam makes of each gradient; none: the gradients.",
            "choices": list(NORMALISATIONS),
        },
    )
    kept_dimensions: int | None = field(
        default=None,
        metadata={
            "help": "Feature dimensions kept per source, h. Default: the model's hidden size."
        },
    )
    dimension_criterion: str = field(
        default="gradient",
        metadata={
            "help": "How the kept dimensions are chosen: largest |mean feature|, |weight|, "
            "|weight * mean gradient|, or at random.",
            "choices": list(CRITERIA),
        },
    )
    distance: str = field(
        default="l1",
        metadata={"help": "Distance between features.", "choices": list(METRICS)},
    )
    allocation: str = field(
        default="proportional",
        metadata={
            "help": "How large sources share the kept examples: proportional to their candidates, "
            "balanced, or none (all sources compete together).",
            "choices": list(ALLOCATIONS),
        },
    )
    source_column: str | None = field(
        default=None,
        metadata={
            "help": "Column that names the source of an example. Default: 'source' where the data "
            "set has it, else all examples count as one source."
        },
    )
    small_sources: list[str] = field(
        default_factory=lambda: [SMALL_SOURCES_AUTO],
        metadata={
            "help": "Sources whose candidates are always kept: auto (those with fewer examples "
            "than the average source, for selectors that keep small sources), none, or names.",
            "nargs": "+",
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
    selection_tokens: int = field(
        default=8192,
        metadata={"help": "Most tokens, padding included, in one forward pass of the selection."},
    )

    def __post_init__(self) -> None:
        """Check each option; one line names the option, its value and the choices."""
        self.small_sources = _as_names(self.small_sources)
        get_selector(self.selector)
        _check_choice("gradient", self.gradient, ESTIMATORS)
        _check_choice("gradient_reduction", self.gradient_reduction, REDUCTIONS)
        _check_choice("normalisation", self.normalisation, NORMALISATIONS)
        _check_choice("dimension_criterion", self.dimension_criterion, CRITERIA)
        _check_choice("distance", self.distance, METRICS)
        _check_choice("allocation", self.allocation, ALLOCATIONS)
        _check_choice("selection_scope", self.selection_scope, SCOPES)
        _check_number("candidate_ratio", self.candidate_ratio, least=1)
        _check_number("perturbation_scale", self.perturbation_scale, above=0)
        _check_number("num_directions", self.num_directions, least=1, whole=True)
        _check_number("selection_tokens", self.selection_tokens, least=1, whole=True)
        if self.kept_dimensions is not None:
            _check_number("kept_dimensions", self.kept_dimensions, least=1, whole=True)
        super().__post_init__()  # type: ignore[misc]


@dataclass
class CoLMConfig(SelectionArguments, SFTConfig):
    """Configuration of `colm.CoLMSFTTrainer`: ``SFTConfig`` and `SelectionArguments`."""


@dataclass
class CoLMTrainingArguments(SelectionArguments, TrainingArguments):
    """Configuration of `colm.CoLMTrainer`: ``TrainingArguments`` and the selection options."""


def _as_names(value: Any) -> list[str]:
    """One name, or several, as a list: YAML and Python users write ``auto``, the CLI a list."""
    if value is None:
        return [SMALL_SOURCES_NONE]
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable):
        return [str(name) for name in value]
    raise ValueError(
        f"small_sources must be '{SMALL_SOURCES_AUTO}', '{SMALL_SOURCES_NONE}' or names of "
        f"sources, got {value!r}."
    )


def _check_choice(option: str, value: Any, choices: Iterable[str]) -> None:
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}; got {value!r}.")


def _check_number(
    option: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    whole: bool = False,
) -> None:
    kind = "a whole number" if whole else "a number"
    bound = f"at least {least}" if least is not None else f"above {above}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number and math.isfinite(value) and not (whole and value != int(value))
    if fits and least is not None:
        fits = value >= least
    if fits and above is not None:
        fits = value > above
    if not fits:
        raise ValueError(f"{option} must be {kind} {bound}; got {value!r}.")
