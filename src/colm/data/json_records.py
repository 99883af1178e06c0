"""Records of a JSON Lines file, or of a JSON file that holds one array, with their types.

The types come from the whole file. ``datasets`` takes them from its first megabytes, fails on a key
that appears later, and reads a column of dates as times. Objects, and columns whose values do not
share a type, are kept as JSON: every record has the keys and numbers that the file gives it.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import (
    ArrowBasedBuilder,
    BuilderConfig,
    Dataset,
    DatasetInfo,
    Features,
    SplitGenerator,
)
from datasets.builder import Key

from colm.data.exact_json import arrow_table
from colm.data.json_types import NOTHING, Shape, infer_shape, join
from colm.data.text_lines import numbered_lines
from colm.json_text import MOST_LEVELS, check_levels

Record = dict[str, Any]

_CHUNK_RECORDS = 1000
#: Different keys of all records together; a table of them has a cell for each in every record.
MOST_FIELDS = 1000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    type(None): "null",
}


def read_json_records(path: Path) -> Dataset:
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
    reader = _Reader(
        features=features, path=str(path.resolve()), state=(state.st_size, state.st_mtime_ns)
    )
    reader.download_and_prepare()
    return reader.as_dataset(split="train")


def infer_features(path: Path) -> Features:
    """Check every record of a file and return the type of each of its columns.

    Args:
        path: JSON Lines file, or JSON file with one array of objects; plain or gzipped (``.gz``).

    Returns:
        Columns in the order in which the file first names them.

    Raises:
        ValueError: A line is broken, or there are no records; the message begins ``path:line:``.
    """
    shapes: dict[str, Shape] = {}
    number = 0
    for number, record in enumerate(iter_records(path), 1):
        if len(shapes) > MOST_FIELDS:
            raise ValueError(
                f"{path}: its first {number - 1} records have {len(shapes)} different keys, each "
                "of which becomes a column; put keys that differ by record into one object"
            )
        for key, value in record.items():
            shapes[key] = join((shapes.get(key, NOTHING), infer_shape(value)))
    if not number:
        raise ValueError(f"{path}: holds no records")
    if not shapes:
        raise ValueError(f"{path}: none of its records has a key")
    return Features({key: shape.feature for key, shape in shapes.items()})


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
        value = _DECODER.decode(text)
        if text.count("[") + text.count("{") > MOST_LEVELS:
            check_levels(value)
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


def _finite(digits: str) -> float:
    """A number with a fraction or an exponent, within what can be held."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits:.20} is beyond the largest number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _as_record(place: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: not a JSON object but {_KINDS[type(value)]}")
    return value


@dataclass
class _ReaderConfig(BuilderConfig):
    """What a file is kept in the cache of ``datasets`` by; its state makes a change be noticed."""

    features: Features | None = None
    path: str = ""
    state: tuple[int, int] = (0, 0)


class _Reader(ArrowBasedBuilder):
    """Writes the records of a file into the cache, column by column, in a tenth of the time."""

    BUILDER_CONFIG_CLASS = _ReaderConfig

    def _info(self) -> DatasetInfo:
        return DatasetInfo(features=self.config.features)

    def _split_generators(self, _: object) -> list[SplitGenerator]:
        return [SplitGenerator(name="train", gen_kwargs={"path": self.config.path})]

    def _generate_tables(self, path: str) -> Iterator[tuple[Key, pa.Table]]:
        features = self.config.features
        records = iter_records(Path(path))
        chunks = iter(lambda: list(itertools.islice(records, _CHUNK_RECORDS)), [])
        for number, chunk in enumerate(chunks):
            columns = {key: [record.get(key) for record in chunk] for key in features}
            yield Key(0, number), arrow_table(features, columns)
