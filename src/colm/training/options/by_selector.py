"""The defaults that a selector brings, as values of a configuration."""

from typing import Any

from colm.checks import as_names
from colm.coreset.registry import get_selector

#: Options that are lists of names.
_NAMES = ("projections", "small_sources")


def options_by_selector(selector: str) -> dict[str, Any]:
    """Return the default of every option that the selector decides.

    Args:
        selector: a name of `colm.available_selectors`.

    Returns:
        Values as a configuration holds them, in new lists.

    Raises:
        ValueError: there is no such selector.

    Example:
        >>> options_by_selector("colm")["small_sources"]
        ['auto']
    """
    return {
        option: as_names(option, value) if option in _NAMES else value
        for option, value in get_selector(selector).defaults.items()
    }


def brought_by(args: Any, option: str) -> str:
    """Return the words of an error that trace a default to the selector, empty for other values.

    Args:
        args: a configuration, settled.
        option: that a selector decides.
    """
    has_it = getattr(args, option) == options_by_selector(args.selector)[option]
    return f" (of selector={args.selector!r})" if has_it else ""
