"""The folder a run writes to: nothing in it is overwritten, and a run can be taken up again."""

from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

#: Names of what a run leaves in its folder.
_TRACES = (
    "checkpoint-*",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "adapter_config.json",
    "config.json",
    "tokenizer_config.json",
    "trainer_state.json",
    "README.md",
)
_SHOWN_TRACES = 3
_YES = {"true", "yes", "1"}
_NO = {"false", "no", "0", "none", ""}
_STATE_FILE = "trainer_state.json"


def find_checkpoint(output_dir: str | Path, resume: str | bool | None) -> str | None:
    """Return the checkpoint to go on from, and make sure that no other run is written over.

    Args:
        output_dir: Folder that the run writes to; need not exist.
        resume: The option ``resume_from_checkpoint``: ``True`` or "true" for the last checkpoint in
            the folder, a path for that checkpoint, ``None`` or "false" to start afresh.

    Returns:
        Folder of the checkpoint, ``None`` to start afresh.

    Raises:
        ValueError: The folder holds a run that is not to be resumed, or there is no checkpoint.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp(), "run")
        >>> find_checkpoint(folder, None)
        >>> find_checkpoint(folder, "true")
        Traceback (most recent call last):
        ...
        ValueError: resume_from_checkpoint is true, but .../run holds no checkpoint
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is not a folder")
    wish = str(resume).lower() if resume is not None else "none"
    if wish in _YES:
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        if last is None:
            raise ValueError(f"resume_from_checkpoint is {wish}, but {folder} holds no checkpoint")
        return _whole_checkpoint(Path(last))
    checkpoint = None if wish in _NO else _whole_checkpoint(Path(str(resume)))
    if checkpoint is None or Path(checkpoint).resolve().parent != folder.resolve():
        _refuse_traces(folder)
    return checkpoint


def _whole_checkpoint(checkpoint: Path) -> str:
    """The checkpoint, if it is one that a trainer finished writing."""
    if not (checkpoint / _STATE_FILE).is_file():
        problem = f"has no {_STATE_FILE}" if checkpoint.is_dir() else "does not exist"
        raise ValueError(f"resume_from_checkpoint: {checkpoint} {problem}")
    return str(checkpoint)


def _refuse_traces(folder: Path) -> None:
    found = sorted({path.name for trace in _TRACES for path in folder.glob(trace)})
    if found:
        more = ", ..." if len(found) > _SHOWN_TRACES else ""
        raise ValueError(
            f"output_dir {folder} holds another run ({', '.join(found[:_SHOWN_TRACES])}{more}): "
            "choose another --output_dir, or go on with it by --resume_from_checkpoint true"
        )
