"""Gradient features: a model and a batch in, one row an example out. Knows no trainer.

Modules are imported on first use: moments and sparsifying need no model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colm.coreset.moments import AdamMoments
    from colm.coreset.observed import Observed
    from colm.gradients.example_observer import ExampleObserver
    from colm.gradients.value_gradients import ValueGradients, last_value_gradients

_HOME_OF = {
    "AdamMoments": "colm.coreset.moments",
    "ExampleObserver": "colm.gradients.example_observer",
    "Observed": "colm.coreset.observed",
    "ValueGradients": "colm.gradients.value_gradients",
    "last_value_gradients": "colm.gradients.value_gradients",
}

__all__ = [
    "AdamMoments",
    "ExampleObserver",
    "Observed",
    "ValueGradients",
    "last_value_gradients",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'colm.gradients' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
