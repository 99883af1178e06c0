"""Gradient features: a model and a batch in, one row an example out. Knows no trainer.

Modules are imported on first use: moments and sparsifying need no model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colm.gradients.features import ValueGradients, last_value_gradients
    from colm.gradients.moments import AdamMoments
    from colm.gradients.observation import Observed
    from colm.gradients.observe import ExampleObserver

_HOME_OF = {
    "AdamMoments": "colm.gradients.moments",
    "ExampleObserver": "colm.gradients.observe",
    "Observed": "colm.gradients.observation",
    "ValueGradients": "colm.gradients.features",
    "last_value_gradients": "colm.gradients.features",
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
