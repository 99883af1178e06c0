"""Presets: the options under which selection is a paper's own, and the defaults without one.

An option that a preset governs is ``None`` until it is resolved: what the user gave goes before the
preset, the preset before the default. Every preset names every such option, so that a default can
change without changing what a paper said.
"""

from collections.abc import Mapping
from typing import Any

from colm.coreset.mixture import SMALL_SOURCES_AUTO, SMALL_SOURCES_NONE
from colm.coreset.registry import available_selectors, get_selector

WEIGHT_CRITERIA = ("weight", "weight_gradient")

#: What options are without a preset: the one place that says so.
DEFAULTS: dict[str, Any] = {
    "selector": "balanced_sampling",
    "gradient": "exact",
    "gradient_reduction": "mean",
    "gradient_layers": "last",
    "selection_vocabulary": "full",
    "num_directions": 1,
    "projections": ["v"],
    "normalisation": "adam",
    "dimension_criterion": "gradient",
    "distance": "l1",
    "allocation": "proportional",
    "weighted": False,
    "example_weights": "label_tokens",
    "small_sources": [SMALL_SOURCES_AUTO],
    "candidate_sampling": "uniform",
    "reference_behaviour": False,
}

_NO_SOURCES_KEPT = (
    SMALL_SOURCES_AUTO,
    SMALL_SOURCES_NONE,
    [SMALL_SOURCES_AUTO],
    [SMALL_SOURCES_NONE],
)

_SPREAD: dict[str, Any] = {
    "gradient_layers": "spread",
    "selection_vocabulary": "batch",
    "normalisation": "rms",
}
#: What goes before the defaults with these selectors.
OF_SELECTOR: dict[str, dict[str, Any]] = {
    "balanced_sampling": _SPREAD | {"candidate_sampling": "unimax"},
    "importance_sampling": _SPREAD | {"candidate_sampling": "unimax"},
    "gradient_matching": _SPREAD,
}

# CoLM, ICLR 2025 (v3): section 4 and Algorithm 1, with the choices of its section 5.
_COLM: dict[str, Any] = {
    "selector": "colm",
    "gradient": "zeroth_order",
    "gradient_reduction": "mean",
    "gradient_layers": "last",
    "selection_vocabulary": "full",
    "num_directions": 1,
    "projections": ["v"],
    "normalisation": "adam",
    "dimension_criterion": "gradient",
    "distance": "l1",
    "allocation": "proportional",
    "weighted": False,
    "example_weights": "label_tokens",
    "small_sources": [SMALL_SOURCES_AUTO],
    "candidate_sampling": "uniform",
    "reference_behaviour": False,
}

# SSM (v1): sources are drawn equally often instead of kept, and Adam plays no part.
_SSM = _COLM | {
    "selector": "ssm",
    "normalisation": "none",
    "small_sources": [SMALL_SOURCES_NONE],
    "candidate_sampling": "inverse_source_size",
}

PRESETS: dict[str, dict[str, Any]] = {
    "colm": _COLM,
    "ssm": _SSM,
    # What the published code does where it differs from the paper.
    "reference": _COLM | {"reference_behaviour": True},
}


def resolve(preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for every option that presets govern.

    Args:
        preset: a key of ``PRESETS``, or ``None`` for the defaults.
        given: what the user said of these options, ``None`` for nothing; and the
            ``candidate_ratio``, where it may be 1.

    Returns:
        The value given, else the preset's, else the default, of each key of ``DEFAULTS``; lists are
        copies. Of a selector's own defaults, those that do not go with what was given step back.

    Raises:
        ValueError: there is no such preset; the message lists those there are.

    Example:
        >>> options = resolve("ssm", {"distance": "cosine", "gradient": None})
        >>> options["distance"], options["gradient"], options["candidate_sampling"]
        ('cosine', 'zeroth_order', 'inverse_source_size')
    """
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}.")
    fallback = _defaults(given) if preset is None else PRESETS[preset]
    chosen = {
        name: value if given.get(name) is None else given[name] for name, value in fallback.items()
    }
    return {
        name: list(value) if isinstance(value, list) else value for name, value in chosen.items()
    }


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults beside what was given, without a preset."""
    selector = given.get("selector") or DEFAULTS["selector"]
    # An unknown name is refused where options are checked.
    known = isinstance(selector, str) and selector in available_selectors()
    fallback = DEFAULTS | (OF_SELECTOR.get(selector, {}) if known else {})
    fallback["weighted"] = known and get_selector(selector).weighs
    # Only exact gradients come from several layers, and only V has a weight to go by.
    if (
        given.get("gradient") not in (None, "exact")
        or given.get("dimension_criterion") in WEIGHT_CRITERIA
        or given.get("projections") is not None
    ):
        fallback["gradient_layers"] = DEFAULTS["gradient_layers"]
    if (given.get("gradient_layers") or fallback["gradient_layers"]) == "last":
        fallback["selection_vocabulary"] = DEFAULTS["selection_vocabulary"]
    # Drawn as often as large ones, small sources would fill the coreset where they are kept whole;
    # and without selection, training is the plain trainer's.
    named = given.get("small_sources") not in (None, *_NO_SOURCES_KEPT)
    if named or given.get("candidate_ratio") == 1:
        fallback["candidate_sampling"] = DEFAULTS["candidate_sampling"]
    return fallback
