"""Load data sets, one or several named sources, as one data set with a source column.

TRL concatenates the entries of a mixture and forgets where each record came from; here every record
keeps the name of its source. Entries have the fields of TRL's ``DatasetConfig``; whatever has those
attributes will do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from colm.data.files import check_file, file_stem, is_data_file, read_file
from colm.data.formats import AnyDataset
from colm.data.joining import join_data_sets
from colm.data.patterns import SourceEntry, fill_pattern, is_pattern
from colm.data.sources import SOURCE_COLUMN, add_source


@dataclass
class Source:
    """One entry of a mixture.

    Attributes:
        path: Data file, folder, or name of a data set on the hub.
        name: What to call the source of a file; the configuration of a data set on the hub.
        data_dir: Folder inside the data set.
        data_files: Files inside the data set.
        split: Which split to take, in the syntax of ``datasets``.
        columns: Columns to take besides the source; all by default.
        fraction: Share of the mixture; set for every entry or for none.
    """

    path: str
    name: str | None = None
    data_dir: str | None = None
    data_files: Any = None
    split: str = "train"
    columns: list[str] | None = None
    fraction: float | None = None


def load_mixture(
    entries: Sequence[SourceEntry],
    *,
    source_column: str | None = None,
    prepare: Callable[[AnyDataset, str], AnyDataset] | None = None,
    streaming: bool = False,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> AnyDataset:
    r"""Load every entry and concatenate them, with a column that names the source of each record.

    A path may be a pattern that several files match: each is an entry of its own, so that each is a
    source unless the entry's ``name`` makes them one.

    A data set that has the source column keeps what stands there, unless it is a local file whose
    entry gives a ``name``. One entry is a mixture too: of the sources that its column names.

    Args:
        entries: What to load, at least one.
        source_column: Column of the sources, ``SOURCE_COLUMN`` by default. Where it is named
            and there is one entry only, it must be there.
        prepare: Called with each data set and its source's name before they are concatenated;
            keeps the source column.
        streaming: Whether to load records as they are needed.
        weights: Of each entry's source, where records are to come by turns, at random and in these
            shares, instead of entry after entry.
        seed: Of the turns.

    Returns:
        The records of all entries, in order or by turns.

    Raises:
        FileNotFoundError: A local file is not there.
        ValueError: An entry cannot be read, lacks a column, or does not go with the others.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("algebra", "logic"):
        ...     _ = (folder / f"{name}.jsonl").write_text('{"prompt": "?", "completion": "!"}')
        >>> load_mixture([Source(str(path)) for path in sorted(folder.iterdir())])["source"][:]
        ['algebra', 'logic']
    """
    if not entries:
        raise ValueError("a mixture needs at least one data set")
    entries = [part for entry in entries for part in fill_pattern(entry)]
    _check_names(entries)
    column = source_column or SOURCE_COLUMN
    required = source_column is not None and len(entries) == 1
    loaded = _take_fractions(entries, [_load_entry(entry, column, streaming) for entry in entries])

    def finish(entry: SourceEntry, dataset: AnyDataset) -> AnyDataset:
        name = source_name(entry)
        replace = entry.name is not None and _is_file(entry.path)
        try:
            dataset = add_source(dataset, column, name, required=required, replace=replace)
            return prepare(dataset, name) if prepare else dataset
        except ValueError as error:
            raise ValueError(f"{entry.path}: {error}") from error

    parts = [finish(entry, dataset) for entry, dataset in zip(entries, loaded, strict=True)]
    shares = None if weights is None else _shares(entries, loaded, column, weights)
    return join_data_sets([entry.path for entry in entries], parts, shares, seed)


def _shares(
    entries: Sequence[SourceEntry],
    loaded: Sequence[AnyDataset],
    column: str,
    weights: Mapping[str, float],
) -> list[float]:
    """The share of each entry by the weight of its source, which entries of one name divide."""
    names = [source_name(entry) for entry in entries]
    for entry, dataset in zip(entries, loaded, strict=True):
        replaced = entry.name is not None and _is_file(entry.path)
        if column in (dataset.column_names or ()) and not replaced:
            raise ValueError(
                f"{entry.path}: its records name their sources in column '{column}', by which a "
                "stream cannot be drawn: load it whole, or give a file for each source"
            )
    unknown = [name for name in weights if name not in names]
    missing = [name for name in names if name not in weights]
    if unknown or missing:
        raise ValueError(
            f"source_weights must have one weight for each of the sources {', '.join(names)}; "
            f"got {', '.join(weights)}"
        )
    return [weights[name] / names.count(name) for name in names]


def named_files(texts: Sequence[str]) -> list[Source]:
    r"""Return the data files that words of a command line stand for, each an entry of a mixture.

    Args:
        texts: ``FILE``, or ``NAME=FILE`` for a source that has another name than its file. A file
            may be a pattern: each that it matches is a source, unless the name makes them one.

    Returns:
        One entry a file, in order; every file is there and can be read.

    Raises:
        FileNotFoundError: There is no such file, or no data file matches.
        ValueError: A file is broken, a name is empty, or two files would have the same.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("easy", "hard"):
        ...     _ = (folder / f"{name}.jsonl").write_text('{"prompt": "?", "completion": "!"}')
        >>> [source_name(each) for each in named_files([f"{folder}/*.jsonl"])]
        ['easy', 'hard']
        >>> [source_name(each) for each in named_files([f"maths={folder}/easy.jsonl"])]
        ['maths']
    """
    entries = [part for text in texts for part in fill_pattern(_named_file(text))]
    _check_names(entries)
    for entry in entries:
        check_file(entry.path)
    return entries


def _named_file(text: str) -> Source:
    """An entry for ``FILE`` or ``NAME=FILE``; what has the whole text as its path goes before."""
    name, sign, path = text.partition("=")
    if not sign or Path(text).exists() or "/" in name or "\\" in name or is_pattern(name):
        return Source(text)
    if not name.strip() or not path:
        raise ValueError(f"{text}: expected FILE or NAME=FILE")
    return Source(path, name)


def load_splits(
    path: str, name: str | None = None, streaming: bool = False
) -> Mapping[str, AnyDataset]:
    """Load every split of one data set; a file has one, ``train``.

    Args:
        path: Data file, folder, or name of a data set on the hub.
        name: Configuration of a data set on the hub.
        streaming: Whether to load records as they are needed.

    Returns:
        Data sets by the name of their split.

    Raises:
        FileNotFoundError: A local file is not there.
        ValueError: The data set cannot be read.
    """
    if _is_file(path):
        return {"train": _read_file(path, "train", streaming)}
    splits: Mapping[str, AnyDataset] = _load_dataset(Source(path, name), streaming, split=None)
    return splits


def source_name(entry: SourceEntry) -> str:
    """Return what the source of an entry is called, if its records do not say.

    Args:
        entry: Entry of a mixture.

    Returns:
        For a file the entry's name or else the file's own; for anything else path and name.

    Example:
        >>> source_name(Source("maths/algebra.jsonl")), source_name(Source("openai/gsm8k", "main"))
        ('algebra', 'openai/gsm8k/main')
    """
    if _is_file(entry.path):
        return entry.name or file_stem(entry.path)
    base = Path(entry.path).name if Path(entry.path).is_dir() else entry.path
    return f"{base}/{entry.name}" if entry.name else base


def _check_names(entries: Sequence[SourceEntry]) -> None:
    """Two files of one name would silently become one source."""
    paths: dict[str, str] = {}
    for entry in entries:
        if entry.name is None and _is_file(entry.path):
            name = source_name(entry)
            other = paths.setdefault(name, entry.path)
            if other != entry.path:
                raise ValueError(
                    f"{other} and {entry.path} would both be called '{name}'; give each a name"
                )


def _is_file(path: str) -> bool:
    return is_data_file(path) or Path(path).is_file()


def _load_entry(entry: SourceEntry, source_column: str, streaming: bool) -> AnyDataset:
    """The records of an entry, with the columns it asks for and the source column."""
    if _is_file(entry.path):
        dataset = _read_file(entry.path, entry.split, streaming)
    else:
        dataset = _load_dataset(entry, streaming, split=entry.split)
    if entry.columns is None:
        return dataset
    columns = dataset.column_names or list(next(iter(dataset)))
    missing = [column for column in entry.columns if column not in columns]
    if missing:
        raise ValueError(
            f"{entry.path}: no column '{missing[0]}'; the columns are {', '.join(columns)}"
        )
    wanted = {*entry.columns, source_column}
    return dataset.select_columns([column for column in columns if column in wanted])


def _read_file(path: str, split: str, streaming: bool) -> AnyDataset:
    dataset = read_file(path, split)
    return dataset.to_iterable_dataset() if streaming else dataset


def _load_dataset(entry: SourceEntry, streaming: bool, split: str | None) -> Any:
    """Let ``datasets`` find the data set; if it cannot, say why in one line."""
    try:
        return load_dataset(
            entry.path,
            name=entry.name,
            data_dir=entry.data_dir,
            data_files=entry.data_files,
            split=split,
            streaming=streaming,
        )
    except (DatasetsError, ValueError, OSError) as error:
        for path in _local_files(entry):
            check_file(path)
        raise ValueError(f"cannot load data set '{entry.path}': {error}") from error


def _local_files(entry: SourceEntry) -> Iterator[Path]:
    """Data files of an entry that lie on this machine, for finding the broken one."""
    files = entry.data_files or []
    for group in files.values() if isinstance(files, Mapping) else [files]:
        for name in [group] if isinstance(group, str) else group:
            if is_data_file(name) and Path(name).is_file():
                yield Path(name)
    folder = Path(entry.path) / (entry.data_dir or "")
    if folder.is_dir():
        yield from (path for path in sorted(folder.rglob("*")) if is_data_file(path))


def _take_fractions(
    entries: Sequence[SourceEntry], loaded: Sequence[AnyDataset]
) -> list[AnyDataset]:
    """The first records of each data set, in shares of the largest mixture that they allow."""
    fractions = [entry.fraction for entry in entries if entry.fraction is not None]
    if not fractions:
        return list(loaded)
    if len(fractions) < len(entries):
        raise ValueError("fraction must be set for every data set of a mixture or for none")
    if min(fractions) < 0 or not sum(fractions):
        raise ValueError(f"fractions must be positive, got {', '.join(map(str, fractions))}")
    if not all(isinstance(dataset, Dataset) for dataset in loaded):
        raise ValueError("fraction needs the size of each data set, which a stream does not tell")
    shares = [fraction / sum(fractions) for fraction in fractions]
    sizes = [len(dataset) for dataset in loaded]
    total = min(size / share for size, share in zip(sizes, shares, strict=True) if share)
    kept = [round(share * total) for share in shares]
    return [dataset.select(range(records)) for dataset, records in zip(loaded, kept, strict=True)]
