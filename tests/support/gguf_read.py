"""A small GGUF reader, fast on vocabularies of 128k tokens, where ``gguf.GGUFReader`` takes seconds.

It shares no code with quantkit, and ``tests/parity/test_oracle.py`` holds it against ``gguf.GGUFReader``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q").unpack_from
# Types of llama.cpp that the released gguf library does not know yet.
_LATER = {42: ("Q2_0", (64, 18))}


@dataclass(frozen=True)
class Value:
    """A metadata value and its type: ``STRING``, ``UINT32``, ``ARRAY[INT32]``, ..."""

    type: str
    value: Any


@dataclass(frozen=True)
class Tensor:
    """A tensor: shape as ggml counts (innermost first), type, absolute offset, bytes."""

    shape: tuple[int, ...]
    type: str
    offset: int
    data: np.ndarray


@dataclass(frozen=True)
class GGUF:
    """A GGUF file: metadata and tensors by name, both in the file's order."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]
    alignment: int
    data_start: int
    size: int


class _Cursor:
    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        data, at, found = self.data, self.at, []
        for _ in range(count):
            (size,) = _LENGTH(data, at)
            at += 8 + size
            found.append(str(data[at - size : at], "utf-8"))
        self.at = at
        return found

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return Value("STRING", self.string())
        if kind != _ARRAY:
            return Value(gguf.GGUFValueType(kind).name, self.scalar(_SCALARS[kind]))
        item, count = self.scalar("I"), self.scalar("Q")
        name = f"ARRAY[{gguf.GGUFValueType(item).name}]"
        if item == _STRING:
            return Value(name, self.strings(count))
        code = f"<{count}{_SCALARS[item]}"
        values = list(struct.unpack_from(code, self.data, self.at))
        self.at += struct.calcsize(code)
        return Value(name, values)


def _kind(number: int) -> tuple[str, tuple[int, int]]:
    """Name of a tensor type, and weights and bytes of a block."""
    if number in _LATER:
        return _LATER[number]
    kind = gguf.GGMLQuantizationType(number)
    return kind.name, gguf.GGML_QUANT_SIZES[kind]


def read_gguf(path: Path) -> GGUF:
    """Read a GGUF file, version 3, little endian. The tensors' bytes are mapped, not copied."""
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    cursor = _Cursor(memoryview(mapped))
    magic, version = cursor.scalar("I"), cursor.scalar("I")
    if (magic, version) != (0x46554747, 3):
        raise ValueError(f"{path}: no GGUF file of version 3")
    tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Value] = {}
    for _ in range(key_count):
        key = cursor.string()
        if key in metadata:
            raise ValueError(f"{path}: key {key} is there twice")
        metadata[key] = cursor.value(cursor.scalar("I"))
    entries = []
    for _ in range(tensor_count):
        name = cursor.string()
        shape = tuple(cursor.scalar("Q") for _ in range(cursor.scalar("I")))
        entries.append((name, shape, *_kind(cursor.scalar("I")), cursor.scalar("Q")))
    alignment = metadata["general.alignment"].value if "general.alignment" in metadata else 32
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    for name, shape, kind, (block, nbytes), offset in entries:
        if name in tensors:
            raise ValueError(f"{path}: tensor {name} is there twice")
        size = int(np.prod(shape, dtype=np.int64)) // block * nbytes
        data = mapped[start + offset : start + offset + size]
        if data.size != size:
            raise ValueError(f"{path}: the file ends inside of {name}")
        tensors[name] = Tensor(shape, kind, start + offset, data)
    return GGUF(metadata, tensors, alignment, start, mapped.size)
