"""Files that are there whole or not at all, whatever kills the process that writes them."""

import contextlib
import os
from pathlib import Path

#: Ends the name of a file that is not whole yet.
UNFINISHED = ".unfinished"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, wait until the disk has it, and give it its name.

    Whoever reads sees the file as it was before or as it is after. What a killed process leaves
    under the other name is written over by the next.

    Raises:
        OSError: it cannot be written; a file that was there is untouched.
    """
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
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
