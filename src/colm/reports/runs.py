"""Runs put side by side: each from the folder or the file that it left, all in one comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from colm.reports.arm import Arm
from colm.reports.comparison import Comparison
from colm.reports.run_folder import STATE, is_run_folder, read_run_folder
from colm.reports.run_names import clean, distinct
from colm.reports.seeds import ways
from colm.run_record import read_record

COMPARISON_DATA = "report.json"
#: What a comparison has in its folder from its beginning on.
COMPARISON_PROGRESS = "compare.json"


def read_runs(paths: Sequence[str | Path], names: Sequence[str] | None = None) -> Comparison:
    """Return one comparison of everything that some folders and files hold.

    Args:
        paths: Folders that ``colm sft``, ``colm compare`` or ``colm demo`` wrote to, and the
            ``report.json`` of the last two.
        names: One for each path; the names of folders and results by default.

    Returns:
        The runs in the order given.

    Raises:
        ValueError: A path holds nothing of the kind, or there is not one name for each.
    """
    parts = [_read(*each) for each in _named(paths, names)]
    return parts[0] if len(parts) == 1 and len(parts[0].arms) > 1 else join_comparisons(parts)


def read_many(
    paths: Sequence[str | Path], names: Sequence[str] | None = None
) -> tuple[dict[str, Comparison], list[str]]:
    """Return what each of many folders and files holds, by its name.

    Args:
        paths: As for ``read_runs``; what holds no run that can be read is left out.
        names: One for each path; the names of folders by default.

    Returns:
        The comparisons in the order given, and what is to be said of paths that were left out.

    Raises:
        ValueError: None of them can be read, or there is not one name for each.
    """
    found: dict[str, Comparison] = {}
    refused: list[str] = []
    for path, name, folder in _named(paths, names):
        title = name or folder
        try:
            part = _read(path, title, folder)
        except ValueError as error:
            refused.append(f"Left out: {error}.")
            continue
        found[distinct([*found, title])[-1]] = part
    if not found:
        raise ValueError(refused[0].removeprefix("Left out: ").removesuffix("."))
    return found, refused


def _named(
    paths: Sequence[str | Path], names: Sequence[str] | None
) -> list[tuple[Path, str | None, str]]:
    """Each path with the name that it was given, if any, and that of its folder."""
    if not paths:
        raise ValueError("no runs: name at least one")
    if names is not None and len(names) != len(paths):
        raise ValueError(f"--names: {len(names)} names for {len(paths)} runs")
    places = [Path(path) for path in paths]
    given = [clean(name) for name in names] if names is not None else [None] * len(paths)
    return list(zip(places, given, _folder_names(places), strict=True))


def _read(path: Path, name: str | None, folder_name: str) -> Comparison:
    """What one path holds, its arms under their names."""
    if not path.exists():
        raise ValueError(f"there is no run {path}")
    if path.is_dir():
        if is_run_folder(path):
            return read_run_folder(path, name or folder_name)
        if (record := read_record(path)) is not None:
            raise ValueError(
                f"{path} holds a run that has saved no {STATE} yet: its steps are not known; "
                f"it began at {record.begun}"
            )
        if not (path / COMPARISON_DATA).is_file():
            if (path / COMPARISON_PROGRESS).is_file():
                raise ValueError(_unfinished(path))
            raise ValueError(
                f"{path} holds no run: no {STATE}, which colm sft writes with each checkpoint and "
                f"at the end, and no {COMPARISON_DATA} of colm compare or colm demo"
            )
        path = path / COMPARISON_DATA
    if path.name == STATE:
        return read_run_folder(path.parent, name or folder_name)
    try:
        return _renamed(Comparison.load(path), name)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _unfinished(folder: Path) -> str:
    """What to say of a comparison that has no report yet, and what of it can be seen."""
    runs = sorted(each for each in folder.iterdir() if each.is_dir() and is_run_folder(each))
    return (
        f"{folder} holds a comparison that is not at its end: if it was interrupted, the same "
        f"command goes on with it, and writes its report; {COMPARISON_PROGRESS} has what was "
        "measured so far" + (f", and colm report {runs[0]} shows one of its runs" if runs else "")
    )


def _renamed(comparison: Comparison, name: str | None) -> Comparison:
    """A comparison whose arms have a name before theirs."""
    if name is None:
        return comparison
    alone = len(comparison.arms) == 1
    arms = [replace(a, name=name if alone else f"{name}: {a.name}") for a in comparison.arms]
    return replace(comparison, arms=arms)


def _folder_names(paths: Sequence[Path]) -> list[str]:
    """The name of each folder, with that of its parent where it alone is not enough."""
    folders = [(path.parent if path.name == STATE else path).absolute() for path in paths]
    names = [folder.name for folder in folders]
    return [
        clean(
            f"{folder.parent.name}/{folder.name}"
            if names.count(folder.name) > 1 or folder.name.startswith("checkpoint-")
            else folder.name
        )
        for folder in folders
    ]


def join_comparisons(parts: Sequence[Comparison]) -> Comparison:
    """Return all arms in one comparison; settings that all share apart from those that differ.

    Args:
        parts: At least one.

    Returns:
        Arms in the order given, no two of one name.
    """
    own = [
        [replace(arm, settings={**part.settings, **arm.settings}) for arm in part.arms]
        for part in parts
    ]
    arms = [arm for group in own for arm in group]
    shared = _shared([arm.settings for arm in arms])
    versions = _shared([part.versions for part in parts])
    arms = [
        replace(
            arm,
            name=name,
            settings={k: v for k, v in arm.settings.items() if k not in shared}
            | {f"version of {k}": v for k, v in part.versions.items() if k not in versions},
        )
        for (arm, part), name in zip(
            [(arm, part) for group, part in zip(own, parts, strict=True) for arm in group],
            distinct([arm.name for arm in arms]),
            strict=True,
        )
    ]
    first = parts[0]
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    return Comparison(
        arms=arms,
        before=first.before if all(part.before == first.before for part in parts) else None,
        source_sizes=_agreed([part.source_sizes for part in parts]),
        small_sources=_agreed_small(parts),
        settings=shared,
        versions=versions,
        notes=[*notes, *_caution(parts, arms)],
    )


def _shared(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all have, and have alike."""
    first, *others = settings
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}


def _agreed(sizes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Sizes of sources, without those that runs have differently."""
    found: dict[str, Any] = {}
    for each in sizes:
        for source, size in each.items():
            found[source] = size if found.get(source, size) == size else None
    return {source: size for source, size in found.items() if size is not None}


def _agreed_small(parts: Sequence[Comparison]) -> list[str]:
    """The small sources, where all runs that know theirs have the same."""
    known = [list(part.small_sources) for part in parts if part.small_sources]
    return known[0] if known and all(set(each) == set(known[0]) for each in known) else []


def _caution(parts: Sequence[Comparison], arms: Sequence[Arm]) -> list[str]:
    """What runs that were not made to be compared may differ in."""
    told = ways(arms)
    if len(parts) < 2 or not any(arm.scores or arm.evaluations() for arm in arms):
        return []
    caution = (
        "These are runs of their own: losses compare where all were evaluated on the same "
        "examples, times where all had the same machine to themselves."
    )
    if any(len(way.runs) == 1 for way in told):
        caution += " One run of a kind is one seed: a small difference may be chance."
    return [caution]
