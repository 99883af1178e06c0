"""Versions of the libraries that what a run does depends on."""

import importlib.metadata
import platform

LIBRARIES = ("colm", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def library_versions(*more: str) -> dict[str, str]:
    """Return the versions of Python and of the libraries, none of which is imported.

    Args:
        more: Names of further packages.

    Returns:
        Versions by name; "not installed" for what is not there.

    Example:
        >>> library_versions("no-such-package")["no-such-package"]
        'not installed'
    """
    found = {name: _version(name) for name in (*LIBRARIES, *more)}
    return found | {"python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
