"""colm: train language models on mini-batches that are small in memory and large in effect.

The one public gate. Nothing heavy is imported before it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colm.coreset.balanced_sampling import BalancedSample, balanced_sampling
    from colm.coreset.candidates import Candidates, Choice
    from colm.coreset.coreset_selector import CoresetSelector
    from colm.coreset.facility_location import (
        FacilityLocation,
        facility_location,
        facility_location_from_features,
    )
    from colm.coreset.gradient_matching import GradientMatching, gradient_matching
    from colm.coreset.importance_sampling import ImportanceSample, importance_sampling
    from colm.coreset.mean_matching import MeanMatching, mean_matching
    from colm.coreset.observed import Observed
    from colm.coreset.registry import available_selectors, register_selector
    from colm.coreset.selection import Selection
    from colm.gradients.value_gradients import ValueGradients, last_value_gradients
    from colm.memory.subspaces.optimizer import SubspaceOptimizer
    from colm.memory.subspaces.subspaces import Subspaces
    from colm.training.options.config import CoLMConfig, CoLMTrainingArguments
    from colm.training.trainer import CoLMSFTTrainer, CoLMTrainer

__version__ = "0.1.0"

_HOMES = {
    "colm.coreset.balanced_sampling": ("BalancedSample", "balanced_sampling"),
    "colm.coreset.candidates": ("Candidates", "Choice"),
    "colm.coreset.facility_location": (
        "FacilityLocation",
        "facility_location",
        "facility_location_from_features",
    ),
    "colm.coreset.gradient_matching": ("GradientMatching", "gradient_matching"),
    "colm.coreset.importance_sampling": ("ImportanceSample", "importance_sampling"),
    "colm.coreset.mean_matching": ("MeanMatching", "mean_matching"),
    "colm.coreset.registry": ("available_selectors", "register_selector"),
    "colm.coreset.selection": ("Selection",),
    "colm.coreset.coreset_selector": ("CoresetSelector",),
    "colm.gradients.value_gradients": ("ValueGradients", "last_value_gradients"),
    "colm.coreset.observed": ("Observed",),
    "colm.memory.subspaces.optimizer": ("SubspaceOptimizer",),
    "colm.memory.subspaces.subspaces": ("Subspaces",),
    "colm.training.options.config": ("CoLMConfig", "CoLMTrainingArguments"),
    "colm.training.trainer": ("CoLMSFTTrainer", "CoLMTrainer"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BalancedSample",
    "Candidates",
    "Choice",
    "CoLMConfig",
    "CoLMSFTTrainer",
    "CoLMTrainer",
    "CoLMTrainingArguments",
    "CoresetSelector",
    "FacilityLocation",
    "GradientMatching",
    "ImportanceSample",
    "MeanMatching",
    "Observed",
    "Selection",
    "SubspaceOptimizer",
    "Subspaces",
    "ValueGradients",
    "available_selectors",
    "balanced_sampling",
    "facility_location",
    "facility_location_from_features",
    "gradient_matching",
    "importance_sampling",
    "last_value_gradients",
    "mean_matching",
    "register_selector",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'colm' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
