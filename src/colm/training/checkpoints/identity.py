"""What makes a run the run that it is: a checkpoint carries it, and whoever resumes must share it.

Resumed under another learning rate, on other data or another base model, a run would go on without
a word, at the wrong place of the data or with the optimiser of another. So everything that decides
a run is written down when it begins: its options, its adapters, its model and its data.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trl import SFTTrainer

from colm.durable import write_whole
from colm.json_text import parse_json
from colm.training.checkpoints.data_digest import describe_data
from colm.training.checkpoints.manifest import FORMER_IDENTITY_FILE, IDENTITY_FILE
from colm.training.checkpoints.model_digest import (
    describe_adapters,
    describe_model,
    digest_weights,
    has_adapters,
)
from colm.training.checkpoints.run_options import comparable_options, describe_options
from colm.training.clusters import CLUSTER_COLUMN
from colm.training.step.source_columns import goes_by_source

_FORMAT = "colm identity 1"
_FORMER_FORMAT = "colm run 1"
_OF_MODEL = ("adapters", "model")

Identity = dict[str, Any]


class Difference(NamedTuple):
    """How two runs differ.

    Attributes:
        text: a line that names it.
        matters: whether the second run cannot go on from the first.
    """

    text: str
    matters: bool = True


def describe_run(trainer: Any, given_optimizer: str | None) -> Identity:
    """Return what decides a run, as JSON has it.  Costs what `describe_data` costs.

    Args:
        trainer: that is about to train.
        given_optimizer: the optimiser that it was made with, if it was given one.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    begun = trainer.state.global_step > 0 and not has_adapters(model)
    return {
        "format": _FORMAT,
        "trainer": {
            "kind of trainer": "SFTTrainer" if isinstance(trainer, SFTTrainer) else "Trainer",
            "optimizer": given_optimizer,
            "kind of distribution": _distribution(trainer.accelerator),
        },
        "options": describe_options(args),
        "adapters": describe_adapters(model),
        "model": describe_model(model),
        # Weights that were trained before in this process are not those that a run begins with.
        "weights": None if begun else digest_weights(model),
        "data": describe_data(trainer.train_dataset, _columns(trainer)),
    }


def save_identity(checkpoint: Path, identity: Identity) -> None:
    """Write what decides a run into its checkpoint.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(checkpoint / IDENTITY_FILE, json.dumps(identity, indent=1).encode())


def load_identity(checkpoint: Path) -> Identity | None:
    """Read what decided the run that wrote a checkpoint, ``None`` where it was not written down.

    Raises:
        ValueError: it cannot be read.
    """
    path = checkpoint / IDENTITY_FILE
    if not path.is_file():
        path = checkpoint / FORMER_IDENTITY_FILE
    if not path.is_file():
        return None
    try:
        identity = parse_json(path.read_text(encoding="utf-8"))
        if identity["format"] not in (_FORMAT, _FORMER_FORMAT):
            raise ValueError
        for part in ("trainer", "options", "adapters", "model", "data"):
            dict(identity[part].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"resume_from_checkpoint: {checkpoint} has a {path.name} that cannot be read"
        ) from error
    return dict(identity)


def find_difference(written: Identity, now: Identity, checkpoint: Path) -> Difference | None:
    """Return the first thing in which a run differs from the one that wrote a checkpoint.

    Args:
        written: by the run before.
        now: of the run that is to go on from it.
        checkpoint: to be named.

    Returns:
        ``None`` where they are one run.
    """
    now = json.loads(json.dumps(now))  # as it would have been read
    is_stream = now["data"]["kind"] == "stream"
    parts = {part: (written[part], now[part]) for part in ("trainer", "options", *_OF_MODEL)}
    parts["options"] = comparable_options(*parts["options"], is_stream)
    for part, (then, current) in parts.items():
        # Of two versions of a library, one may have options that the other lacks.
        known = [name for name in current if name in then]
        if part == "adapters":
            known = list(current | then)
        for name in known:
            if then.get(name) != current.get(name):
                return _of_values(name, then.get(name), current.get(name), checkpoint)
    return _of_data(written["data"], now["data"], checkpoint) or _of_weights(
        written, now, checkpoint
    )


def _of_values(name: str, then: Any, now: Any, folder: Path) -> Difference:
    while isinstance(then, dict) and isinstance(now, dict):
        key = next(key for key in now | then if then.get(key) != now.get(key))
        name, then, now = f"{name}.{key}", then.get(key), now.get(key)
    return Difference(
        f"{name} is {now!r}, but {folder} was written with {then!r}: resume with the same value, "
        "or start a new run."
    )


def _of_data(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> Difference | None:
    advice = "resume with the same data in the same order, or start a new run."
    if then["kind"] != now["kind"]:
        return Difference(
            f"the training data are {_kind(now)}, but {folder} was written with {_kind(then)}: "
            "set dataset_streaming, or the data set, as it was, or start a new run."
        )
    if then.get("number") != now.get("number"):
        return Difference(
            f"there are {now.get('number')} training examples, but {folder} was written with "
            f"{then.get('number')}: {advice}"
        )
    mine, theirs = now.get("columns"), then.get("columns")
    if mine is None or theirs is None:
        return None
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            return Difference(
                f"column '{name}' of the training data is not what {folder} was written with, in "
                f"what it holds or in its order: {advice}"
            )
    return None


def _of_weights(written: Identity, now: Identity, folder: Path) -> Difference | None:
    then, mine = written.get("weights"), now.get("weights")
    if then is None or mine is None or then == mine:
        return None
    if now["adapters"]["kind of adapter"] == "none":
        return Difference(
            f"the model has other weights than the one {folder} began with; all of them are taken "
            "from the checkpoint.",
            matters=False,
        )
    return Difference(
        f"the frozen weights of the model are not those that {folder} was trained on, and it holds "
        "adapters alone: resume with the same model_name_or_path, or start a new run."
    )


def _columns(trainer: Any) -> set[str]:
    """The columns that training reads; none stands for all. Clusters are kept by themselves."""
    if not trainer.args.remove_unused_columns:
        return set()
    trainer._set_signature_columns_if_needed()
    # Where nothing goes by source, losses alone are told by it.
    source = trainer._selection.source_column if goes_by_source(trainer.args) else None
    return {*trainer._signature_columns, *([source] if source else [])} - {CLUSTER_COLUMN}


def _kind(data: Mapping[str, Any]) -> str:
    return "a stream" if data["kind"] == "stream" else f"{data.get('number')} examples"


def _distribution(accelerator: Any) -> str:
    """How the processes hold the weights, which decides what a checkpoint looks like."""
    name = str(getattr(accelerator.distributed_type, "name", "NO"))
    return name if name in ("FSDP", "DEEPSPEED", "MEGATRON_LM") else "each process has all weights"
