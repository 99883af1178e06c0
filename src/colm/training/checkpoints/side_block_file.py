"""A side block's own small files: its weights, and what model it stands beside."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from colm.durable import write_whole
from colm.gradients.decoder import base_model, class_name, find_layers
from colm.json_text import read_json
from colm.memory.side_block import SideBlock, attach_side_block, side_block_of

WEIGHTS_FILE = "colm_side_block.safetensors"
CONFIG_FILE = "colm_side_block.json"
_FORMAT = "colm side block 1"


def save_side_block(model: nn.Module, folder: str | Path) -> None:
    """Write the side block of a model into a folder; the model itself is not written.

    Args:
        model: with a block.
        folder: made where there is none.

    Raises:
        ValueError: the model has no side block.
        OSError: it cannot be written.
    """
    block, folder = side_block_of(model), Path(folder)
    if block is None:
        raise ValueError(f"{class_name(model)} has no side block to save.")
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = base_model(model).config
    told = {
        "format": _FORMAT,
        "base_model_name_or_path": str(getattr(config, "_name_or_path", "")),
        **_described(block),
    }
    weights = {name: value.cpu().contiguous() for name, value in block.state_dict().items()}
    write_whole(folder / WEIGHTS_FILE, save(weights))
    write_whole(folder / CONFIG_FILE, f"{json.dumps(told, indent=1)}\n".encode())


def load_side_block(model: nn.Module, folder: str | Path) -> SideBlock:
    """Put the side block of a folder beside the model that it was trained with.

    Args:
        model: plain, or with a side block of the same options, which is given other weights.
        folder: of `save_side_block`, or of a run.

    Returns:
        The block.

    Raises:
        ValueError: there is no such block, or it does not fit the model.
    """
    folder = Path(folder)
    config = read_side_block_config(folder)
    begun = side_block_of(model)
    block = begun or attach_side_block(model, config["reduction"], every=config["every"])
    try:
        for name, value in _described(block).items():
            if config[name] != value:
                raise ValueError(f"{name} is {config[name]} there, and {value} here")
        block.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        if begun is None:
            block.detach()
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the side block in {folder} does not fit this {class_name(model)}: {reason}"
        ) from error
    return block


def read_side_block_config(folder: Path) -> dict[str, Any]:
    """Return what a folder says of its side block.

    Raises:
        ValueError: it has none, or says nothing that can be read.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG_FILE}: there is no side block in it.")
    try:
        config = read_json(path)
        whole = all(isinstance(config[name], int) for name in ("reduction", "every", "layers"))
        if config["format"] != _FORMAT or not whole:
            raise ValueError("it is of another format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return dict(config)


def _described(block: SideBlock) -> dict[str, int]:
    """What a block and a model must share to fit."""
    return {
        "reduction": block.reduction,
        "every": block.trunk.every,
        "layers": len(find_layers(block.trunk.model)),
    }
