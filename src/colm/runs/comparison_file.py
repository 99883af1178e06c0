"""How far a comparison has come, as data: ``compare.json`` in its folder, written at every turn."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from colm.checks import shown
from colm.durable import UNFINISHED, write_whole
from colm.json_text import read_json
from colm.training.checkpoints.folder_lock import LOCK_FILE

COMPARISON_FILE = "compare.json"
_FORMAT = "colm compare 1"

WAITING, TRAINED, GIVEN_UP = "waiting", "trained", "failed"


@dataclass(frozen=True)
class ArmRun:
    """One run of a comparison: an arm with a seed and a learning rate, and how far it has come.

    Attributes:
        arm: Its name.
        seed: Of the run.
        learning_rate: ``None`` for that of the recipe.
        state: ``waiting`` for its turns, ``trained`` or ``failed``.
        message: What ended one that failed.
        measured: What it told after each turn: step, seconds, checkpoint, scores.
    """

    arm: str
    seed: int
    learning_rate: float | None = None
    state: str = WAITING
    message: str = ""
    measured: Sequence[Mapping[str, Any]] = ()

    @property
    def folder(self) -> str:
        """Name of its folder."""
        rate = "" if self.learning_rate is None else f"-lr{self.learning_rate:g}"
        return f"{self.arm}-seed{self.seed}{rate}"

    @property
    def seconds(self) -> float:
        """That it has trained for, as far as it has measured."""
        return self.measured[-1]["seconds"] if self.measured else 0.0


@dataclass
class ComparisonState:
    """A comparison as its folder has it.

    Attributes:
        settings: What decides it; no other settings may go on with it.
        runs: All of them.
        data: What the arms trained and were measured on: sizes of sources, the small ones, a
            digest; nothing before the first has loaded it.
        before: Scores of the model before training.
    """

    settings: Mapping[str, Any]
    runs: list[ArmRun]
    data: dict[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] | None = None

    def change(self, run: ArmRun, **changes: Any) -> ArmRun:
        """Put a run in the place of the one that it was.

        Args:
            run: As it stands there.
            changes: Its new values.

        Returns:
            The run as it is now.
        """
        place = self.runs.index(run)
        self.runs[place] = replace(run, **changes)
        return self.runs[place]

    def save(self, folder: Path) -> None:
        """Write everything into a folder, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)
        write_whole(folder / COMPARISON_FILE, f"{text}\n".encode("utf-8", "backslashreplace"))


def read_state(folder: Path, beside: Collection[str] = ()) -> ComparisonState | None:
    """Return what a folder holds of a comparison.

    Args:
        folder: Need not exist.
        beside: Names of what may lie in it already.

    Returns:
        ``None`` where it is empty or not there.

    Raises:
        ValueError: It holds something else.
    """
    path = folder / COMPARISON_FILE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is not a folder")
    if not path.exists():
        names = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
        # A killed process leaves its lock, and what was not whole yet.
        if names - set(beside) - {LOCK_FILE, f"{COMPARISON_FILE}{UNFINISHED}"}:
            raise ValueError(
                f"--output_dir {folder} holds something else: name a new or empty folder, or that "
                "of a comparison to go on with"
            )
        return None
    try:
        data = read_json(path)
        if data.pop("format") != _FORMAT:
            raise ValueError("of another version")
        runs = [ArmRun(**run) for run in data.pop("runs")]
        return ComparisonState(runs=runs, **data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not the file of a comparison ({error})") from error


def check_same(begun: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a comparison under other settings.

    Args:
        begun: Settings of that which the folder has.
        settings: Of the comparison that is to go on.
        folder: That holds it.

    Raises:
        ValueError: One setting differs; the line names it and both values.
    """
    written, now = dict(begun), json.loads(json.dumps(settings))
    for name in dict.fromkeys([*now, *written]):
        if written.get(name) != now.get(name):
            then, mine = written.get(name), now.get(name)
            if isinstance(then, dict) and isinstance(mine, dict):
                key = next(k for k in [*mine, *then] if then.get(k) != mine.get(k))
                name, then, mine = f"{name}: {key}", then.get(key), mine.get(key)
            raise ValueError(
                f"--output_dir {folder} holds a comparison with {name} {shown(then)}, and now it "
                f"is {shown(mine)}: name another folder, or ask for the same"
            )
