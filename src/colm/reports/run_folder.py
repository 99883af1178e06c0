"""Reading the output folder of a training run, whether it ended, goes on or was cut short."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colm.json_text import read_json
from colm.names import shown_name
from colm.reports.arm import MOST_STEPS, Arm, clean_log, is_whole
from colm.reports.comparison import Comparison
from colm.reports.evaluations import read_evaluations
from colm.reports.run_names import clean
from colm.run_record import ENDED, STOPPED, RunRecord, read_record
from colm.source_names import MOST_SOURCES, OTHER_SOURCES

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
    record = read_record(folder)
    log = clean_log(state.data.get("log_history"))
    evaluations = read_evaluations(folder, state.step, name)
    arm = Arm(
        name=name,
        scores=evaluations.scores,
        log_history=log,
        settings=_settings(state, record),
        accuracies=evaluations.accuracies,
        steps=state.step,
        planned_steps=_whole(state.data.get("max_steps")),
        seed=_seed(record) if record else "",
        recipe=_recipe(record, state.step) if record else "",
    )
    return Comparison(
        arms=[arm],
        before=None,
        source_sizes=_source_sizes(record.sources) if record else {},
        small_sources=[clean(shown_name(name)) for name in record.small_sources] if record else (),
        settings={},
        versions={clean(k): clean(v) for k, v in record.versions.items()} if record else {},
        notes=[*_progress(arm, folder, state, record), *evaluations.notes],
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


def _progress(arm: Arm, folder: Path, state: _State, record: RunRecord | None) -> list[str]:
    """How far the run has come, where it has not come to its end."""
    planned = arm.planned_steps
    of = f" of {planned}" if planned else ""
    if record is not None and record.state == STOPPED:
        return [
            f"{arm.name} was stopped after step {record.step}{of}: this is what is known after "
            f"step {state.step}."
        ]
    if state.folder != folder and not (record is not None and record.state == ENDED):
        return [
            f"{arm.name} is still going on or was cut short: this is what its newest checkpoint, "
            f"after step {state.step}{of}, knows."
        ]
    if planned and state.step < planned:
        return [f"{arm.name} ends after step {state.step} of {planned}."]
    return []


def _settings(state: _State, record: RunRecord | None) -> dict[str, str]:
    """What describes the run: its steps, its adapter, and what its record has."""
    settings = _recorded(record) if record is not None else {}
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


def _recorded(record: RunRecord) -> dict[str, str]:
    """Model, mini-batches, and options of selection and of less memory."""
    settings = {
        "drawn each step": f"{record.drawn} examples",
        "trained on each step": f"{record.kept} examples",
    }
    if name := str(record.model.get("name") or ""):
        settings = {"model": without_folder(name)} | settings
    options = {**record.selection, **record.subspaces, **record.memory, **record.seeds}
    return settings | {clean(name): _in_words(value) for name, value in options.items()}


def _seed(record: RunRecord) -> str:
    """The seed of the run; what else is drawn by a seed of its own has that behind it."""
    others = [f"{name} {value}" for name, value in record.seeds.items() if name != "seed"]
    return clean(", ".join([str(record.seeds.get("seed", "")), *others]))


def _recipe(record: RunRecord, step: int) -> str:
    """A digest of all that decides a run but its seed, and how long it is where it has no end yet.

    Sizes of sources are left out: where examples are held out, the seed says which.
    """
    parts: dict[str, Any] = {
        name: getattr(record, name)
        for name in (
            "model",
            "data",
            "drawn",
            "kept",
            "selection",
            "subspaces",
            "options",
            "memory",
        )
    }
    parts["step"] = None if record.state == ENDED else step
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _in_words(value: Any) -> str:
    return clean(" ".join(map(str, value)) if isinstance(value, list) else str(value))


def _source_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """The largest sources by the names that the log has, the others in one."""
    ordered = sorted(sizes, key=lambda source: (-sizes[source], source))
    shown = {clean(shown_name(source)): sizes[source] for source in ordered[:MOST_SOURCES]}
    others = sum(sizes[source] for source in ordered[MOST_SOURCES:])
    return shown | ({OTHER_SOURCES: others} if others else {})


def without_folder(name: str) -> str:
    """Return a name as given, but of a path its end alone.

    Args:
        name: Of a model or a file.

    Returns:
        Where it lies is one machine's business.

    Example:
        >>> without_folder("/models/tiny"), without_folder("owner/model")
        ('tiny', 'owner/model')
    """
    is_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    return clean(re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name)


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
