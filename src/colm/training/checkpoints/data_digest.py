"""What the training data of a run are, in a few numbers that a later run can be held against.

A digest is of what is in the rows and of their order, not of how they lie in memory or in a cache:
the same file read twice, by any number of processes, has the same one. The columns that training
reads are read once, and no others; of more than ``MOST_ROWS`` rows as many are, in blocks that are
spread evenly. Symbols: N examples in the data set.
"""

import hashlib
import json
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

#: Rows whose content is read; of larger data sets, blocks of them.
MOST_ROWS = 2**20
#: Rows of a block.
BLOCK_ROWS = 1024
#: Of data that have no table, so many examples are read, spread evenly.
MOST_EXAMPLES = 256
#: Of a stream, so many from its beginning.
FIRST_EXAMPLES = 32

#: In place of a column's name where data are no table.
EXAMPLES = "examples"

Description = dict[str, Any]


def describe_data(dataset: Any, columns: Collection[str]) -> Description:
    """Return what is known of training data at little cost.

    Args:
        dataset: of ``datasets`` or PyTorch, whole or a stream.
        columns: that training reads; those the data lack are passed over, and where they have none
            of these, all are taken.

    Returns:
        ``kind`` is ``whole`` or ``stream``; ``number`` is N where it is known; ``columns`` has a
        digest of each, and is missing where nothing can be read, or twice the same.
    """
    if isinstance(dataset, datasets.Dataset):
        return {"kind": "whole", "number": len(dataset), "columns": _of_table(dataset, columns)}
    if isinstance(dataset, datasets.IterableDataset):
        # A stream that begins anew does so without changing this one.
        first = dataset.take(FIRST_EXAMPLES)
        return {"kind": "stream", **_of_examples(lambda: islice(first, FIRST_EXAMPLES), columns)}
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        # It may be gone once it is read.
        return {"kind": "stream"}
    number = len(dataset)
    rows = np.unique(np.linspace(0, max(0, number - 1), min(number, MOST_EXAMPLES)).astype(int))
    found = _of_examples(lambda: (dataset[row] for row in rows.tolist()), columns)
    return {"kind": "whole", "number": number, **found}


def _of_table(dataset: datasets.Dataset, columns: Collection[str]) -> dict[str, str]:
    """The digest of each column of a table."""
    known = [name for name in dataset.column_names if name in columns] or dataset.column_names
    table = dataset.select_columns(known).with_format("arrow")
    digests = {name: hashlib.blake2b(digest_size=16) for name in sorted(known)}
    for start in _blocks(len(dataset)):
        block = table[start : start + BLOCK_ROWS]
        for name, digest in digests.items():
            for part in _content(_joined(block.column(name))):
                digest.update(part)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _blocks(rows: int) -> Iterable[int]:
    """The first row of each block that is read."""
    starts = range(0, rows, BLOCK_ROWS)
    most = MOST_ROWS // BLOCK_ROWS
    if len(starts) <= most:
        return starts
    return [starts[i] for i in np.linspace(0, len(starts) - 1, most).astype(int).tolist()]


def _joined(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def _content(array: pa.Array) -> Iterator[Any]:
    """What an array holds as buffers, which do not tell how it lies in memory."""
    if isinstance(array, pa.ExtensionArray):
        yield from _content(array.storage)
        return
    if pa.types.is_dictionary(array.type):
        yield from _content(array.dictionary_decode())
        return
    yield len(array).to_bytes(8, "little")
    if array.null_count:
        yield array.is_valid().to_numpy(zero_copy_only=False).tobytes()
        array = array.drop_null()
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        yield _numbers(pc.list_value_length(array))
        yield from _content(array.flatten())
    elif pa.types.is_struct(array.type):
        for field, values in zip(array.type, array.flatten(), strict=True):
            yield field.name.encode()
            yield from _content(values)
    elif pa.types.is_boolean(array.type) or pa.types.is_primitive(array.type):
        yield _numbers(array)
    elif pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        yield _numbers(pc.binary_length(array))
        yield (
            "".join(array.to_pylist()).encode("utf-8", "surrogatepass")
            if pa.types.is_string(array.type)
            else b"".join(array.to_pylist())
        )
    else:
        yield repr(array.to_pylist()).encode("utf-8", "surrogatepass")


def _numbers(array: pa.Array) -> Any:
    values = array.to_numpy(zero_copy_only=False)
    return (
        np.ascontiguousarray(values).tobytes()
        if values.dtype != object
        else repr(values.tolist()).encode()
    )


def _of_examples(
    read: Callable[[], Iterable[Any]], columns: Collection[str]
) -> Mapping[str, dict[str, str]]:
    """The digest of examples by column; of none where they differ when they are read again."""
    try:
        with _same_randomness():
            first = _digests(read(), columns)
            again = _digests(read(), columns)
    except Exception:  # whatever reading does: training will meet it, and say it better
        return {}
    return {"columns": first} if first == again else {}


def _digests(examples: Iterable[Any], columns: Collection[str]) -> dict[str, str]:
    digests: dict[str, Any] = {}
    for example in examples:
        values = example if isinstance(example, Mapping) else {EXAMPLES: example}
        known = [name for name in values if name in columns] or list(values)
        for name in sorted(map(str, known)):
            text = json.dumps(values[name], default=_plain, sort_keys=True)
            digest = digests.setdefault(name, hashlib.blake2b(digest_size=16))
            digest.update(f"{len(text)}:{text}".encode())
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _plain(value: Any) -> Any:
    """A tensor or an array as lists; of what JSON does not know, what kind of thing it is."""
    return value.tolist() if hasattr(value, "tolist") else type(value).__name__


@contextmanager
def _same_randomness() -> Iterator[None]:
    """Leave the global generators as they are, whatever reading an example draws from them."""
    own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)  # noqa: NPY002
