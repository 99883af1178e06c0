"""Files that are there whole or not at all, whatever kills the process that writes them."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import disk_usage

#: Ends the name of a file that is not whole yet.
UNFINISHED = ".unfinished"

#: The system's numbers for a lack of room: on the disk, in a quota, in what a file may hold.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: How libraries say the same that pass on no number: those in Rust, pyarrow, ``torch.save``.
_NO_ROOM_TEXT = re.compile(
    rf"(os error|errno) ({'|'.join(map(str, _NO_ROOM))})\b|No space left|Disk quota exceeded"
    r"|No usable temporary directory|PytorchStreamWriter|inline_container\S*\] \. unexpected pos",
    re.IGNORECASE,
)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, wait until the disk has it, and give it its name.

    Whoever reads sees the file as it was before or as it is after. What a killed process leaves
    under the other name is written over by the next.

    Raises:
        OSError: it cannot be written; a file that was there is untouched.
    """
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # on a full disk it would take up what is left
            unfinished.unlink()
        raise
    flush_folder(path.parent)


def flush_file(path: Path) -> int:
    """Wait until the disk has what was written to a file, and return its size in bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names of the files in a folder, where it can be waited for."""
    # Some network drives cannot, and neither can Windows; the files themselves are safe there.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lacks_room(error: BaseException | None) -> bool:
    """Tell whether an exception, or what it came from, says that a disk is full.

    Example:
        >>> lacks_room(Exception("No space left on device (os error 28)")), lacks_room(OSError(13))
        (True, False)
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in _NO_ROOM or _NO_ROOM_TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def naming_what_is_written(
    path: Path, advice: str, is_done: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Turn what libraries say when something cannot be written into one line.

    Args:
        path: file or folder that is written.
        advice: what is lost or not, and what to do.
        is_done: says that it has been written, and that what goes wrong is something else.

    Raises:
        OSError: in place of theirs, with the path and the space that is free there.
    """
    try:
        yield
    except Exception as error:
        # safetensors has an exception of its own for all that goes wrong with a file.
        about_files = isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
        if is_done() or not (about_files or lacks_room(error)):
            raise
        free = disk_usage(_existing(path)).free // 10**6
        reason = " ".join(str(error).split())
        raise OSError(
            f"cannot write {path}: {reason} ({free} MB are free there). {advice}"
        ) from error


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())
