"""What the options are that a selector decides, as a configuration has them."""

from typing import Any

from colm.checks import as_names
from colm.coreset.registry import get_selector

#: Options that are lists of names.
_NAMES = ("projections", "small_sources")


def options_by_selector(selector: str) -> dict[str, Any]:
    """Return what each option that a selector decides is where it is not given.

    Args:
        selector: a name of `colm.available_selectors`.

    Returns:
        Values as a configuration has them; lists are nobody else's.

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
    """Return what an error says of an option that is as the selector brings it, else nothing.

    Args:
        args: a configuration, settled.
        option: that a selector decides.
    """
    has_it = getattr(args, option) == options_by_selector(args.selector)[option]
    return f" (of selector={args.selector!r})" if has_it else ""
