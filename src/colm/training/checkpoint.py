"""The selector's state in a checkpoint: one safetensors file, and the settings it belongs to.

A changed ratio or batch size would resume at the wrong place of the data without a word, so the
settings that decide what is drawn are kept beside the state and compared.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE_NAME = "colm_selector.safetensors"
SETTINGS_KEY = "colm_settings"

Settings = Mapping[str, Any]

#: What decides which candidates are drawn, how they are seen, and which are kept.
RESUME_SETTINGS = (
    "candidate_ratio",
    "selector",
    "gradient",
    "gradient_reduction",
    "gradient_layers",
    "selection_vocabulary",
    "num_directions",
    "perturbation_scale",
    "projections",
    "prompt_features",
    "normalisation",
    "kept_dimensions",
    "dimension_criterion",
    "distance",
    "allocation",
    "weighted",
    "example_weights",
    "source_column",
    "source_clusters",
    "small_sources",
    "candidate_sampling",
    "reference_behaviour",
    "selection_scope",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "data_seed",
)


def resume_settings(args: Any) -> Settings:
    """Return the options that a resumed run must share with the one that wrote a checkpoint."""
    return {name: getattr(args, name) for name in RESUME_SETTINGS}


def state_file(folder: str | Path, process_index: int, num_processes: int) -> Path:
    """Return where a process keeps its selector's state in a checkpoint folder."""
    if num_processes == 1:
        return Path(folder) / FILE_NAME
    name = Path(FILE_NAME)
    return Path(folder) / f"{name.stem}_{process_index}{name.suffix}"


def save_state(path: Path, state: Mapping[str, Tensor], settings: Settings) -> None:
    """Write the state and the settings."""
    # Processes get here in any order, and only the first one makes the folder.
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(tensors, path, metadata={SETTINGS_KEY: json.dumps(dict(settings))})


def load_state(path: Path, settings: Settings) -> dict[str, Tensor]:
    """Read a state and hold its settings against those of this run.

    Args:
        path: from `state_file`.
        settings: of the run that resumes.

    Returns:
        The state.

    Raises:
        ValueError: the file is missing, is not ours, or was written under other settings.
    """
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has no {path.name}: it was not written by a run with selection. Start "
            "a new run from its weights, or set candidate_ratio=1."
        )
    with safe_open(path, framework="pt") as file:
        written = json.loads((file.metadata() or {}).get(SETTINGS_KEY, "null"))
        if written is None:
            raise ValueError(f"{path} was not written by colm.")
        for option, value in settings.items():
            if written.get(option) != value:
                raise ValueError(
                    f"{option} is {value!r}, but {path.parent} was written with "
                    f"{written.get(option)!r}: resume with the same value, or start a new run."
                )
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
