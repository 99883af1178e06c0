"""Reading the output folder of a training run, whether it ended, goes on or was cut short."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colm.json_text import read_json
from colm.reports.arm import MOST_STEPS, Arm, clean_log, is_whole
from colm.reports.card_reader import Card, read_card, without_folder
from colm.reports.comparison import Comparison
from colm.reports.evaluations import read_evaluations
from colm.reports.run_names import clean

STATE = "trainer_state.json"
ADAPTER = "adapter_config.json"
_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class _State:
    """A trainer's state, and the folder it was found in."""

    folder: Path
    step: int
    data: Mapping[str, Any]


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder is one that a trainer wrote to.

    Args:
        folder: Any folder.

    Returns:
        Whether it or a checkpoint in it has a trainer's state.
    """
    return bool(_state_files(folder))


def read_run_folder(folder: Path, name: str) -> Comparison:
    """Return what a run's folder holds.

    Args:
        folder: That ``colm sft`` was given as ``output_dir``, or a checkpoint in it.
        name: Of the run.

    Returns:
        A comparison of one arm.

    Raises:
        ValueError: No state in it can be read.
    """
    state = _newest_state(folder)
    card = read_card(folder)
    log = clean_log(state.data.get("log_history"))
    evaluations = read_evaluations(folder, state.step, name)
    arm = Arm(
        name=name,
        scores=evaluations.scores,
        log_history=log,
        settings=_settings(state, card),
        accuracies=evaluations.accuracies,
        steps=state.step,
        planned_steps=_whole(state.data.get("max_steps")),
    )
    return Comparison(
        arms=[arm],
        before=None,
        source_sizes=card.source_sizes,
        small_sources=(),
        settings={},
        versions=card.versions,
        notes=[*_progress(arm, folder, state), *evaluations.notes],
    )


def _state_files(folder: Path) -> list[Path]:
    """The folder's own state, then those of its checkpoints."""
    checkpoints = [path for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name)]
    return [path / STATE for path in (folder, *checkpoints) if (path / STATE).is_file()]


def _newest_state(folder: Path) -> _State:
    """The state after the most steps; one that was cut short while it was written is passed over.

    The folder's own goes before a checkpoint's after as many steps.
    """
    states, problems = [], []
    for path in _state_files(folder):
        try:
            data = read_json(path)
            step = _whole(data.get("global_step")) if isinstance(data, dict) else None
            if step is None:
                raise ValueError("no global_step in it")
            clean_log(data.get("log_history"))
            states.append(_State(path.parent, step, data))
        except (ValueError, OSError) as error:
            problems.append(f"{path.relative_to(folder)}: {error}")
    if not states:
        raise ValueError(f"{folder}: its {STATE} is not one that a trainer wrote ({problems[0]})")
    return max(states, key=lambda state: state.step)


def _progress(arm: Arm, folder: Path, state: _State) -> list[str]:
    """How far the run has come, where it has not come to its end."""
    planned = arm.planned_steps
    if state.folder != folder:
        of = f" of {planned}" if planned else ""
        return [
            f"{arm.name} is still going on or was cut short: this is what its newest checkpoint, "
            f"after step {state.step}{of}, knows."
        ]
    if planned and state.step < planned:
        return [f"{arm.name} ends after step {state.step} of {planned}."]
    return []


def _settings(state: _State, card: Card) -> dict[str, str]:
    """What describes the run: its steps, its adapter, and the options that its card has."""
    settings = dict(card.settings)
    adapter = _read_mapping(state.folder / ADAPTER)
    if base := adapter.get("base_model_name_or_path"):
        settings.setdefault("model", without_folder(str(base)))
    if adapter.get("peft_type"):
        rank, alpha = adapter.get("r"), adapter.get("lora_alpha")
        sizes = f", rank {rank}, alpha {alpha}" if rank and alpha else ""
        settings["adapter"] = clean(f"{adapter['peft_type']}{sizes}")
    for label, key in (
        ("steps planned", "max_steps"),
        ("examples in a micro-batch", "train_batch_size"),
    ):
        if number := _whole(state.data.get(key)):
            settings[label] = f"{number:,}"
    return settings


def _read_mapping(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is not there, or holds something else."""
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _whole(value: Any) -> int | None:
    """A number of steps, ``None`` for anything else."""
    return value if is_whole(value) and 0 <= value <= MOST_STEPS else None
