"""Entries of a mixture, and patterns that stand for several files of one."""

import copy
import glob
from pathlib import Path
from typing import Any, Protocol, TypeVar

from colm.data.files import FORMATS, is_data_file


class SourceEntry(Protocol):
    """What an entry of a mixture says; TRL's ``DatasetConfig`` and ``Source`` both do."""

    path: str
    name: str | None
    data_dir: str | None
    data_files: Any
    split: str
    columns: list[str] | None
    fraction: float | None


Entry = TypeVar("Entry", bound=SourceEntry)


def is_pattern(path: str) -> bool:
    """Tell whether a path stands for the local files that match it; what exists is no pattern.

    Args:
        path: What an entry of a mixture says.

    Returns:
        Whether it holds a wildcard.

    Example:
        >>> is_pattern("maths/*.jsonl"), is_pattern("openai/gsm8k")
        (True, False)
    """
    return glob.has_magic(path) and "://" not in path and not Path(path).exists()


def matching_files(path: str) -> list[str]:
    """Return the files that a path stands for.

    Args:
        path: Name of a file, or a pattern.

    Returns:
        Data files that match, by their names; the path itself where it is no pattern.

    Raises:
        FileNotFoundError: No data file matches.
    """
    if not is_pattern(path):
        return [path]
    paths = [name for name in sorted(glob.glob(path, recursive=True)) if is_data_file(name)]
    if not paths:
        raise FileNotFoundError(
            f"{path}: no data file matches; expected files ending in {', '.join(FORMATS)}"
        )
    return paths


def fill_pattern(entry: Entry) -> list[Entry]:
    """Return an entry for every file that a pattern stands for.

    Args:
        entry: Entry of a mixture.

    Returns:
        Entries of one file each, by their paths; the entry itself where its path is no pattern.

    Raises:
        FileNotFoundError: No data file matches.
        ValueError: Several do, and the entry has a fraction.
    """
    paths = matching_files(entry.path)
    if entry.fraction is not None and len(paths) > 1:
        raise ValueError(
            f"{entry.path}: fraction needs one file an entry, but {len(paths)} files match"
        )
    parts = [copy.copy(entry) for _ in paths]
    for part, path in zip(parts, paths, strict=True):
        part.path = path
    return parts
