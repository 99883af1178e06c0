"""One run at a time in a folder: two that begin together would write over each other.

The lock is the operating system's, on a file in the folder, so that it ends with the process that
holds it, however that ends. It is one of the process and not of its children (`fcntl.lockf`): the
workers of a killed run may live on for a while, and must not keep the folder.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

#: Begins with a character that pushing to the hub passes over: to read the file lets go of it.
LOCK_FILE = "_colm.lock"

#: What a file system says that another process holds the lock.
_HELD = (errno.EACCES, errno.EAGAIN)
#: How often a process in this one has taken the folder, which is let go with the last.
_taken: dict[tuple[int, Path], int] = {}

logger = logging.getLogger(__name__)


@contextmanager
def holding(folder: str | Path, wanted: bool = True) -> Iterator[None]:
    """Keep other processes from running in a folder; one that is made for it and stays empty goes.

    Args:
        folder: need not exist.
        wanted: whether this process writes there.

    Raises:
        ValueError: another process holds it, or it is no folder.
        OSError: nothing can be written there.

    Example:
        >>> import tempfile
        >>> with holding(tempfile.gettempdir()), holding(tempfile.gettempdir()):
        ...     pass
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is not a folder")
    key = os.getpid(), folder.resolve()
    if not wanted or fcntl is None or key in _taken:
        _taken[key] = _taken.get(key, 0) + 1
        try:
            yield
        finally:
            _taken[key] -= 1
            if not _taken[key]:
                del _taken[key]
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    handle = _take(folder)
    _taken[key] = 1
    try:
        yield
    finally:
        del _taken[key]
        if handle is not None:
            # Whoever opened it meanwhile sees that it has no name any more.
            (folder / LOCK_FILE).unlink(missing_ok=True)
            os.close(handle)
        with suppress(OSError):  # what is not empty stays
            for each in made:
                each.rmdir()


def _take(folder: Path) -> int | None:
    """Lock a folder's file and return its handle, ``None`` where the drive knows no locks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            if _locked(handle, folder) is False:
                return None
            if os.fstat(handle).st_nlink:
                return handle
            os.close(handle)  # the run that held it ended in between
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"output_dir {folder} cannot be written to: {reason}") from error


def _locked(handle: int, folder: Path) -> bool:
    """Lock an open file.  False, and it is closed, where the drive knows no locks.

    Raises:
        ValueError: another process has it.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in _HELD:
            raise ValueError(
                f"output_dir {folder} is being written to by another run: wait until it ends, or "
                "choose another output_dir"
            ) from error
        logger.warning("%s is on a drive without locks: let one run at a time use it", folder)
        return False
    return True
