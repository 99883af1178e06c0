"""Lines of a text file, plain or gzipped, in UTF-8 or in what Windows calls Unicode."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, counted from 1, line ends kept.

    Args:
        path: Text in UTF-8, with or without a byte order mark, in UTF-16 or in UTF-32; gzipped if
            the name ends in ``.gz``.

    Yields:
        Line number and line.

    Raises:
        ValueError: A line is not in the encoding that the file begins with, or the gzip file is
            damaged.
    """
    number = 0
    encoding = "UTF-8"
    try:
        encoding = text_encoding(path)
        with _open_bytes(path) as lines:
            if encoding != "UTF-8":
                text = io.TextIOWrapper(lines, encoding, newline="\n")
                for number, decoded in enumerate(text, 1):
                    yield number, decoded
                return
            for number, line in enumerate(lines, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeError as error:
        # More than a line is decoded at once where lines are not made of bytes.
        place = f"{path}:{number}" if encoding == "UTF-8" else f"{path}"
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{place}: not {encoding} text ({reason}); save it as UTF-8") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}:{number + 1}: not a whole gzip file ({error})") from error


def text_encoding(path: Path) -> str:
    """Return the encoding of a text file, going by its first bytes.

    Args:
        path: Text file, gzipped if the name ends in ``.gz``.

    Returns:
        ``"UTF-8"``, or a name of UTF-16 or UTF-32.
    """
    with _open_bytes(path) as file:
        encoding = json.detect_encoding(file.read(4)).upper()
    return "UTF-8" if encoding == "UTF-8-SIG" else encoding


def _open_bytes(path: Path) -> io.BufferedReader | gzip.GzipFile:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")
