"""The selector's state in a checkpoint: one safetensors file, and the settings it belongs to.

A changed ratio or batch size would resume at the wrong place of the data without a word, so the
settings that decide what is drawn are kept beside the state and compared. Where each process has a
state of its own the file holds them all; they travel as the bytes of safetensors, never pickled.
Symbols: w processes.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from colm.durable import write_whole
from colm.json_text import parse_json
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.processes.exchange import Exchange

SELECTOR_FILE = "colm_selector.safetensors"
SETTINGS_KEY = "colm_settings"

#: Starts the keys of a state that belongs to one of several processes.
_OWNER = "process "

Settings = Mapping[str, Any]

#: What decides which candidates are drawn, how they are seen, and which are kept.
RESUME_SETTINGS = (
    "candidate_ratio",
    "selector",
    "gradient",
    "num_directions",
    "perturbation_scale",
    "projections",
    "prompt_features",
    "normalization",
    "kept_dimensions",
    "dimension_criterion",
    "distance",
    "allocation",
    "weighted",
    "loss_average",
    "stored_losses",
    "stored_share",
    "source_column",
    "source_clusters",
    "small_sources",
    "candidate_sampling",
    "source_weights",
    "source_weights_by",
    "sampling_exponent",
    "most_repeats",
    "reference_behaviour",
    "selection_scope",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "data_seed",
)
#: Beside them: how many processes train.
PROCESSES = "num_processes"
#: Their product is what must be the same where all processes select together.
_STEP_SIZE = ("per_device_train_batch_size", "gradient_accumulation_steps", PROCESSES)
#: States are gathered in pieces, so that a process holds w of these at a time on its device.
_PIECE_BYTES = 2**22


def resume_settings(args: Any) -> Settings:
    """Return the options that a resumed run must share with the one that wrote a checkpoint."""
    settings = {name: getattr(args, name) for name in RESUME_SETTINGS}
    return settings | {PROCESSES: args.world_size}


def gather_states(own: Mapping[str, Tensor], group: Exchange) -> dict[str, Tensor]:
    """Return the states of all processes as one, each key after the number of its process.

    Args:
        own: state of this process.
        group: the processes that have states of their own; with one, its state is returned.

    Returns:
        The same on every process, on the CPU. Costs w states of memory.
    """
    if group.num_processes == 1:
        return dict(own)
    content = torch.frombuffer(bytearray(save(_plain(own))), dtype=torch.uint8)
    sizes = group.rows(torch.tensor([len(content)])).tolist()
    pieces: list[list[Tensor]] = [[] for _ in sizes]
    for start in range(0, max(sizes), _PIECE_BYTES):
        block = group.rows(content[start : start + _PIECE_BYTES]).cpu()
        lengths = [min(_PIECE_BYTES, max(0, size - start)) for size in sizes]
        for found, piece in zip(pieces, block.split(lengths), strict=True):
            found.append(piece)
    states = [load(torch.cat(found).numpy().tobytes()) for found in pieces]
    return {
        f"{_owner(process)}{key}": value
        for process, state in enumerate(states)
        for key, value in state.items()
    }


def save_state(path: Path, state: Mapping[str, Tensor], settings: Settings) -> None:
    """Write the state and the settings; the file is there whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(_plain(state), metadata={SETTINGS_KEY: json.dumps(dict(settings))}))


def load_state(path: Path, settings: Settings, process: int = 0) -> dict[str, Tensor]:
    """Read a state and hold its settings against those of this run.

    Args:
        path: the file in the checkpoint.
        settings: of the run that resumes.
        process: whose state it is, where each process has its own.

    Returns:
        The state.

    Raises:
        ValueError: the file is missing, is not ours, is cut short, or was written under other
            settings.
    """
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has no {path.name}: it was not written by a run with selection. Start "
            "a new run from its weights, or set candidate_ratio=1."
        )
    try:
        with safe_open(path, framework="pt") as file:
            written = parse_json((file.metadata() or {}).get(SETTINGS_KEY, "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is cut short or no safetensors file: {error}.") from error
    if written is None:
        raise ValueError(f"{path} was not written by colm.")
    _compare(written, settings, path.parent)
    # A file without owners has one state, which all processes share.
    own = {key.removeprefix(_owner(process)): value for key, value in tensors.items()}
    return {key: value for key, value in own.items() if not key.startswith(_OWNER)}


def _compare(written: Settings, now: Settings, folder: Path) -> None:
    """Refuse settings that differ from those of the checkpoint."""
    is_shared = now["selection_scope"] == "global" or now["candidate_ratio"] == 1
    if written.get(PROCESSES) != now[PROCESSES] and is_shared:
        # It serves any number of processes that draw as many candidates.
        written, now = with_step_size(written), with_step_size(now)
    # What was written before there was an option did as its default says.
    defaults = {each.name: each.default for each in fields(SelectionArguments)}
    for option, value in now.items():
        then = written.get(option, defaults.get(option))
        if then != value:
            raise ValueError(
                f"{option} is {value!r}, but {folder} was written with {then!r}: resume with the "
                "same value, or start a new run."
            )


def with_step_size(settings: Settings) -> dict[str, Any]:
    """Return settings with the examples of a step in place of what decides on them."""
    sizes = [int(settings.get(name) or 0) for name in _STEP_SIZE]
    others = {name: value for name, value in settings.items() if name not in _STEP_SIZE}
    return others | {" x ".join(_STEP_SIZE): sizes[0] * sizes[1] * sizes[2]}


def _owner(process: int) -> str:
    return f"{_OWNER}{process}: "


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}
