"""Read one local file into a data set, or say which line of it is broken.

A pass over the file in constant memory comes first and finds what would otherwise surface as an
error without a place: ``train.csv:17: 3 fields where the header has 2``.
"""

import csv
import glob
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, ReadInstruction, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from colm.data.json_records import infer_features, read_json_records
from colm.data.text_lines import numbered_lines, text_encoding


def read_file(path: str | Path, split: str = "train") -> Dataset:
    r"""Read a JSON Lines, JSON, CSV or Parquet file, plain or (but for Parquet) gzipped.

    Columns of a CSV file are read as text, and "NA" stays "NA". A key that a JSON record lacks is
    null. Memory does not grow with the file, unless it is one JSON array.

    Args:
        path: File whose name ends in one of ``FORMATS``.
        split: Which part of it, in the syntax of ``datasets``: ``"train"`` is all of it,
            ``"train[:100]"`` the first 100 records.

    Returns:
        One row a record.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The name has no known ending, the file holds no record, or a line is broken.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train.jsonl"
        >>> _ = path.write_text('{"prompt": "2 + 2 =", "completion": " 4"}\n{"prompt": "3 + ')
        >>> read_file(path)
        Traceback (most recent call last):
        ...
        ValueError: .../train.jsonl:2: not valid JSON: Unterminated string starting at, column 12
    """
    path = Path(path)
    dataset = FORMATS[_known_suffix(path)][0](path)
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({"train": len(dataset)})
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{path}: no split '{split}'; a file has one, 'train'") from error
    if split == "train":
        return dataset
    return dataset.select([row for part in parts for row in range(part.from_, part.to)])


def check_file(path: str | Path) -> None:
    """Raise what ``read_file`` would raise about a broken file, without reading it.

    Args:
        path: File whose name ends in one of ``FORMATS``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The name has no known ending, the file holds no record, or a line is broken.
    """
    path = Path(path)
    FORMATS[_known_suffix(path)][1](path)


def is_data_file(path: str | Path) -> bool:
    """Tell whether a name ends like that of a data file; the file need not exist.

    Args:
        path: File name, or anything else that names a data set.

    Returns:
        Whether ``read_file`` knows its ending.

    Example:
        >>> is_data_file("maths/train.jsonl.gz"), is_data_file("openai/gsm8k")
        (True, False)
    """
    return _suffix(Path(path)) is not None


def file_stem(path: str | Path) -> str:
    """Return the name of a data file without its folder and ending.

    Args:
        path: Name of a data file.

    Returns:
        What the file is called.

    Example:
        >>> file_stem("maths/train.jsonl.gz")
        'train'
    """
    name = Path(path).name
    return name[: len(name) - len(_suffix(Path(path)) or "")]


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)


def _known_suffix(path: Path) -> str:
    """The ending of an existing file that can be read."""
    suffix = _suffix(path)
    if suffix is None or path.is_dir():
        kind = "a folder" if path.is_dir() else "an unknown kind of file"
        raise ValueError(f"{path}: {kind}; expected a file ending in {', '.join(FORMATS)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return suffix


def _read_csv(path: Path) -> Dataset:
    features = _check_csv(path)
    encoding = text_encoding(path)
    return _load("csv", path, features=features, keep_default_na=False, encoding=encoding)


def _check_csv(path: Path) -> Features:
    """Check that every row has as many fields as the header; all columns are text."""
    rows = csv.reader((line for _, line in numbered_lines(path)), strict=True)
    limit = csv.field_size_limit(sys.maxsize)
    try:
        header = next(rows, None)
        if not header:
            raise ValueError(f"{path}: holds no records")
        if len(set(header)) < len(header) or not all(name.strip() for name in header):
            raise ValueError(f"{path}:1: every column needs a name of its own, got {header}")
        records = 0
        for row in rows:
            if row and len(row) != len(header):
                fields = f"{len(row)} field{'s' if len(row) > 1 else ''}"
                raise ValueError(
                    f"{path}:{rows.line_num}: {fields} where the header has {len(header)}"
                )
            records += bool(row)
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.line_num}: not valid CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    if not records:
        raise ValueError(f"{path}: holds no records")
    return Features({name: Value("string") for name in header})


def _read_parquet(path: Path) -> Dataset:
    _check_parquet(path)
    return _load("parquet", path)


def _check_parquet(path: Path) -> None:
    """Check that the footer can be read and counts at least one row."""
    try:
        records = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from error
    if not records:
        raise ValueError(f"{path}: holds no records")


def _load(builder: str, path: Path, **options: object) -> Dataset:
    """Let ``datasets`` read a file that has passed its check."""
    data_files = glob.escape(str(path.resolve()))
    try:
        return load_dataset(builder, data_files=data_files, split="train", **options)
    except DatasetGenerationError as error:
        cause = error.__cause__ or error
        raise ValueError(f"{path}: cannot be read: {cause}") from error


#: Ending of a file's name, and what reads and what checks such a file.
FORMATS: Mapping[str, tuple[Callable[[Path], Dataset], Callable[[Path], object]]] = {
    ".jsonl": (read_json_records, infer_features),
    ".jsonl.gz": (read_json_records, infer_features),
    ".json": (read_json_records, infer_features),
    ".json.gz": (read_json_records, infer_features),
    ".csv": (_read_csv, _check_csv),
    ".csv.gz": (_read_csv, _check_csv),
    ".parquet": (_read_parquet, _check_parquet),
}
