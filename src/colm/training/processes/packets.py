"""Examples as bytes, for the process that trains on them: numbers as they are, the rest as JSON.

A packet is a header in JSON behind its length, then the numbers of all columns. Reading one can
run nothing: it holds no code and names no class. It is no safetensors file: that would name each
column of each example once more, in a header of its own.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colm.training.example import Example

_LENGTH = struct.Struct("<Q")
_TENSORS = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.bfloat16, torch.float16, torch.float32, torch.float64),
    )
}
_PLAIN = (str, bool, int, float, type(None))


def packed(examples: Mapping[int, Example]) -> bytes:
    """Return examples as bytes that `unpacked` reads.

    A list of whole numbers takes 4 bytes a number, 8 where one needs them; a list of other numbers
    8; arrays and tensors what they take in memory; everything else what it takes as JSON.

    Args:
        examples: by number; columns may hold numbers, strings, ``None``, lists and string-keyed
            dicts of those, numerical arrays and tensors.

    Raises:
        ValueError: a column holds something else; the message names it.
    """
    numbers: list[bytes] = []
    header = [
        [key, {column: _described(value, column, numbers) for column, value in example.items()}]
        for key, example in examples.items()
    ]
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *numbers])


def unpacked(packet: bytes) -> dict[int, Example]:
    """Return the examples of a packet, by number, as `packed` was given them."""
    start = _LENGTH.size
    end = start + _LENGTH.unpack_from(packet)[0]
    reader = _Reader(packet, end)
    return {
        key: {column: reader.value(described) for column, described in columns.items()}
        for key, columns in json.loads(packet[start:end])
    }


def _described(value: Any, column: str, numbers: list[bytes]) -> list[Any]:
    """Describe a value for the header: ``[kind, ...]``; its numbers, if any, join ``numbers``."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor) and (name := str(value.dtype).removeprefix("torch.")) in _TENSORS:
        flat = value.detach().cpu().contiguous().flatten()
        numbers.append(flat.view(torch.uint8).numpy().tobytes())
        return ["tensor", name, list(value.shape)]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        numbers.append(value.tobytes())
        return ["array", value.dtype.str, list(value.shape)]
    if type(value) is list and value and (dtype := _dtype_of(value)):
        numbers.append(np.asarray(value, dtype=dtype).tobytes())
        return ["list", dtype, [len(value)]]
    if not _is_plain(value):
        raise ValueError(
            f"column {column!r} holds a {_kind_of(value)}, which selection_scope='global' cannot "
            "send to another process: remove the column, or set selection_scope='local'."
        )
    return ["json", value]


def _dtype_of(values: list[Any]) -> str | None:
    """How a list of numbers is sent; ``None`` where it goes as JSON."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return "<f8"
    if kinds != {int}:
        return None
    least, most = min(values), max(values)
    for dtype in ("<i4", "<i8"):
        limits = np.iinfo(dtype)
        if limits.min <= least and most <= limits.max:
            return dtype
    return None


def _is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was."""
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    return type(value) in _PLAIN


def _kind_of(value: Any) -> str:
    """Name the type of the first thing in a value that JSON would not give back."""
    if type(value) in (list, dict):
        inside = value if type(value) is list else [*value, *value.values()]
        return next((_kind_of(each) for each in inside if not _is_plain(each)), "dict")
    return type(value).__name__


class _Reader:
    """Takes the numbers of a packet, one column after the other."""

    def __init__(self, packet: bytes, start: int) -> None:
        self.packet = packet
        self.place = start

    def value(self, described: list[Any]) -> Any:
        kind, *rest = described
        if kind == "json":
            return rest[0]
        name, shape = rest
        if kind == "tensor":
            dtype = _TENSORS[name]
            raw = torch.from_numpy(self._numbers("|u1", [*shape, dtype.itemsize]))
            return raw.flatten().view(dtype).reshape(shape)
        values = self._numbers(name, shape)
        return values if kind == "array" else values.tolist()

    def _numbers(self, name: str, shape: list[int]) -> np.ndarray[Any, Any]:
        """The next numbers of the packet, in memory of their own."""
        dtype, count = np.dtype(name), int(np.prod(shape, dtype=np.int64))
        values = np.frombuffer(self.packet, dtype, count, self.place).reshape(shape).copy()
        self.place += values.nbytes
        return values
