"""The folder a run writes to: nothing in it is overwritten, and a run can be taken up again."""

from pathlib import Path

from colm.training.checkpoints.manifest import (
    TRAINER_STATE,
    choose_last,
    find_checkpoints,
    problem_of_named,
)

#: Names of what a run leaves in its folder.
_TRACES = (
    "checkpoint-*",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "adapter_config.json",
    "config.json",
    "tokenizer_config.json",
    TRAINER_STATE,
    "README.md",
)
_SHOWN_TRACES = 3
_YES = {"true", "yes", "1"}
_NO = {"false", "no", "0", "none", ""}


def find_checkpoint(
    output_dir: str | Path, resume: str | bool | None, by_others: bool = False
) -> str | bool | None:
    """Return what to go on from, and make sure that no other run is written over.

    Args:
        output_dir: Folder that the run writes to; need not exist.
        resume: The option ``resume_from_checkpoint``: ``True`` or "true" for the last complete
            checkpoint in the folder, a path for that checkpoint, ``None`` or "false" to start
            afresh.
        by_others: Whether a checkpoint that is named may come from another trainer.

    Returns:
        Folder of the checkpoint that was named, ``True`` for the last one, on which all processes
        have yet to agree, ``None`` to start afresh. Where the last run was killed before it had a
        complete one, the last one is none, and the run starts from the beginning.

    Raises:
        ValueError: The folder holds a run that is not to be resumed, or there is no complete
            checkpoint.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp(), "run")
        >>> find_checkpoint(folder, None)
        >>> find_checkpoint(folder, "true")
        Traceback (most recent call last):
        ...
        ValueError: resume_from_checkpoint: .../run holds no checkpoint
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is not a folder")
    wish = str(resume).lower() if resume is not None else "none"
    if wish in _YES:
        choose_last(folder, find_checkpoints(folder))
        return True
    checkpoint = None if wish in _NO else Path(str(resume))
    if checkpoint is not None and (problem := problem_of_named(checkpoint, by_others)):
        raise ValueError(f"resume_from_checkpoint: {checkpoint} {problem}")
    if checkpoint is None or checkpoint.resolve().parent != folder.resolve():
        _refuse_traces(folder)
    return None if checkpoint is None else str(checkpoint)


def _refuse_traces(folder: Path) -> None:
    found = sorted({path.name for trace in _TRACES for path in folder.glob(trace)})
    if not found:
        return
    more = ", ..." if len(found) > _SHOWN_TRACES else ""
    advice = "choose another --output_dir"
    try:
        choose_last(folder, find_checkpoints(folder))
        advice += ", or go on with it by --resume_from_checkpoint true"
    except ValueError:  # there is nothing to go on from
        pass
    raise ValueError(
        f"output_dir {folder} holds another run ({', '.join(found[:_SHOWN_TRACES])}{more}): "
        f"{advice}"
    )
