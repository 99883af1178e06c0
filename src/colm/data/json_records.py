"""Records of a JSON Lines file, or of a JSON file that holds one array, with their types.

The types come from the whole file. ``datasets`` takes them from its first megabytes, fails on a key
that appears later, and reads a column of dates as times. A column whose values do not share a type
is left as JSON.
"""

import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from datasets import Dataset, Features, Json

Record = dict[str, Any]

_CHUNK_RECORDS = 1000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    type(None): "null",
}


def read_json(path: Path) -> Dataset:
    """Read every record of a file in two passes: one for the types, one for the rows.

    A key that a record lacks is null. Memory does not grow with the file, except where it is one
    array.

    Args:
        path: JSON Lines file, or JSON file with one array of objects; plain or gzipped (``.gz``).

    Returns:
        One row a record.

    Raises:
        ValueError: A line is broken, or there are no records; the message begins ``path:line:``.
    """
    features = infer_features(path)
    state = path.stat()
    gen_kwargs = {
        "path": path.resolve(),
        "features": features,
        "_version": (state.st_size, state.st_mtime_ns),
    }
    return Dataset.from_generator(_rows, features=features, gen_kwargs=gen_kwargs)


def infer_features(path: Path) -> Features:
    """Check every record of a file and return the type of each of its columns.

    Args:
        path: JSON Lines file, or JSON file with one array of objects; plain or gzipped (``.gz``).

    Returns:
        Columns in the order in which the file first names them.

    Raises:
        ValueError: A line is broken, or there are no records; the message begins ``path:line:``.
    """
    types: dict[str, pa.DataType | None] = {}
    records = iter_records(path)
    first = next(records, None)
    if first is None:
        raise ValueError(f"{path}: holds no records")
    records = itertools.chain([first], records)
    while chunk := list(itertools.islice(records, _CHUNK_RECORDS)):
        for key in dict.fromkeys(itertools.chain.from_iterable(chunk)):
            known = types.get(key, pa.null())
            types[key] = _merge_types(known, [record.get(key) for record in chunk])
    if not types:
        raise ValueError(f"{path}: none of its records has a key")
    columns = {key: pa.string() if pa.types.is_null(t) else t for key, t in types.items() if t}
    features = Features.from_arrow_schema(pa.schema(columns))
    return Features({key: features.get(key, Json()) for key in types})


def iter_records(path: Path) -> Iterator[Record]:
    """Yield each record of a file; blank lines are passed over.

    Args:
        path: JSON Lines file, or JSON file with one array of objects; plain or gzipped (``.gz``).

    Yields:
        Objects as the file has them.

    Raises:
        ValueError: A line is broken; the message begins ``path:line:``.
    """
    is_json = ".json" in (suffix.lower() for suffix in path.suffixes)
    for place, text in _texts(path):
        if is_json and text.lstrip().startswith("["):
            yield from _array_items(path)
            return
        yield _as_record(place, _parse(place, text))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, plain or gzipped, counted from 1, line ends kept.

    Args:
        path: UTF-8 text, with or without a byte order mark; gzipped if the name ends in ``.gz``.

    Yields:
        Line number and line.

    Raises:
        ValueError: A line is not UTF-8, or the gzip file is damaged.
    """
    number = 0
    try:
        with _open_bytes(path) as lines:
            for number, line in enumerate(lines, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:{number}: not UTF-8 text ({error.reason})") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}:{number + 1}: not a whole gzip file ({error})") from error


def _open_bytes(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with its place."""
    for number, line in numbered_lines(path):
        if line.strip():
            yield f"{path}:{number}", line.rstrip("\r\n")


def _array_items(path: Path) -> Iterator[Record]:
    """Records of a file that is one array; the whole of it is held."""
    text = "".join(line for _, line in numbered_lines(path))
    for number, item in enumerate(_parse(str(path), text), 1):
        yield _as_record(f"{path}: item {number}", item)


def _parse(place: str, text: str) -> Any:
    """The value that a text stands for; strict where Python's parser is lenient."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if text.strip().count("\n") else ""
        raise ValueError(
            f"{place}{line}: not valid JSON: {error.msg}, column {error.colno}"
        ) from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: not valid JSON: half a surrogate pair") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON: {error}") from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _as_record(place: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: not a JSON object but {_KINDS[type(value)]}")
    return value


def _merge_types(known: pa.DataType | None, values: Iterable[Any]) -> pa.DataType | None:
    """The type that fits what is known and these values; ``None`` if there is none."""
    if known is None:
        return None
    try:
        fields = [pa.field("", known), pa.field("", pa.array(values).type)]
        schemas = [pa.schema([field]) for field in fields]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return None


def _rows(path: Path, features: Features, _version: tuple[int, int]) -> Iterator[Record]:
    """Records with every column; the version makes the cache of ``datasets`` notice a change."""
    for record in iter_records(path):
        yield {key: record.get(key) for key in features}
