"""The bytes before the weights of a GGUF file: metadata and the list of tensors, written and read.

GGUF version 3, little endian, as specified in llama.cpp's ``docs`` of ggml. The gguf library can do both, but it
builds Python objects for every token and merge; a Llama 3 vocabulary has 400,000 of them, which is seconds. Here a
string array is joined in one go.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from quantkit.errors import GGUFError
from quantkit.ggml_types import GGMLType

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32


class KVType(IntEnum):
    """GGUF's metadata types."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_FORMATS = {
    KVType.UINT8: "B", KVType.INT8: "b", KVType.UINT16: "H", KVType.INT16: "h", KVType.UINT32: "I", KVType.INT32: "i",
    KVType.FLOAT32: "f", KVType.BOOL: "?", KVType.UINT64: "Q", KVType.INT64: "q", KVType.FLOAT64: "d",
}  # fmt: skip


@dataclass(frozen=True)
class KV:
    """A typed metadata entry; ``item`` is the element type of an array."""

    key: str
    value: Any
    type: KVType
    item: KVType | None = None

    @cached_property
    def encoded(self) -> bytes:
        """The entry as it stands in a file; made once, because a vocabulary goes into every output."""
        return _string(self.key) + struct.pack("<I", self.type) + _value(self)


def u32(key: str, value: int) -> KV:
    return KV(key, int(value), KVType.UINT32)


def i32(key: str, value: int) -> KV:
    return KV(key, int(value), KVType.INT32)


def f32(key: str, value: float) -> KV:
    return KV(key, float(value), KVType.FLOAT32)


def boolean(key: str, value: bool) -> KV:
    return KV(key, bool(value), KVType.BOOL)


def string(key: str, value: str) -> KV:
    return KV(key, value, KVType.STRING)


def array(key: str, value: Sequence[Any], item: KVType) -> KV:
    return KV(key, value, KVType.ARRAY, item)


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the tensor list.

    Attributes:
        name: at most 63 bytes, llama.cpp's limit.
        shape: as in PyTorch, outermost first (GGUF stores the reverse).
        type: the ggml type.
        offset: of the first byte, from the start of the data section; a multiple of the alignment.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int


def align(size: int, alignment: int = ALIGNMENT) -> int:
    """*size* rounded up to a multiple of *alignment*."""
    return -(-size // alignment) * alignment


def encode_header(metadata: Iterable[KV], tensors: Sequence[TensorInfo]) -> bytes:
    """The header with its padding: its length is the offset of the data section."""
    entries = list(metadata)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(entries))]
    parts += [entry.encoded for entry in entries]
    for tensor in tensors:
        dims = tensor.shape[::-1]
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.type, tensor.offset))
    header = b"".join(parts)
    return header.ljust(align(len(header)), b"\0")


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(entry: KV) -> bytes:
    if entry.type is KVType.STRING:
        return _string(entry.value)
    if entry.type is not KVType.ARRAY:
        return struct.pack("<" + _FORMATS[entry.type], entry.value)
    assert entry.item is not None
    head = struct.pack("<IQ", entry.item, len(entry.value))
    if entry.item is KVType.STRING:
        pack = struct.Struct("<Q").pack
        return head + b"".join(
            part for text in entry.value for raw in (text.encode(),) for part in (pack(len(raw)), raw)
        )
    return head + struct.pack(f"<{len(entry.value)}{_FORMATS[entry.item]}", *entry.value)


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        metadata: entries by key, in the file's order.
        tensors: by name, in the file's order.
        data_offset: where the data section starts in the file.
        alignment: of the tensors in the data section.
    """

    metadata: Mapping[str, KV]
    tensors: Mapping[str, TensorInfo]
    data_offset: int
    alignment: int

    def value(self, key: str, default: Any = None) -> Any:
        entry = self.metadata.get(key)
        return default if entry is None else entry.value


def read_header(path: Path) -> Header:
    """Parse the header of a GGUF file and check it against the file's size.

    Raises:
        GGUFError: not a GGUF file, truncated, or with numbers that cannot be right.
    """
    try:
        with path.open("rb") as file:
            return _Parser(path, file).parse()
    except FileNotFoundError:
        raise GGUFError(f"{path}: no such file") from None
    except OSError as error:
        raise GGUFError(f"{path}: cannot be read ({error.strerror or error})") from None


class _Parser:
    """Reads forward; every length is checked against the file's size before it is believed."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size

    def refuse(self, why: str) -> GGUFError:
        return GGUFError(f"{self.path}: {why}", hint="download or build the file again")

    def take(self, count: int) -> bytes:
        if count > self.size:
            raise self.refuse("truncated or not a sound GGUF header")
        data = self.file.read(count)
        if len(data) != count:
            raise self.refuse("truncated in the header")
        return data

    def unpack(self, fmt: str) -> tuple[Any, ...]:
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt)))

    def text(self) -> str:
        (length,) = self.unpack("Q")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.refuse("a string in the header is not UTF-8") from None

    def parse(self) -> Header:
        if self.size < 24 or self.take(4) != MAGIC:
            raise self.refuse("not a GGUF file")
        version, n_tensors, n_entries = self.unpack("IQQ")
        if version not in (2, 3):
            raise self.refuse(f"GGUF version {version}; supported are 2 and 3")
        if max(n_tensors, n_entries) > self.size:
            raise self.refuse("truncated or not a sound GGUF header")
        metadata: dict[str, KV] = {}
        for _ in range(n_entries):
            entry = self.entry()
            if entry.key in metadata:
                raise self.refuse(f"key {entry.key!r} appears twice")
            metadata[entry.key] = entry
        alignment = metadata["general.alignment"].value if "general.alignment" in metadata else ALIGNMENT
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.refuse(f"alignment {alignment!r} is not a power of two")
        tensors: dict[str, TensorInfo] = {}
        for _ in range(n_tensors):
            info = self.tensor()
            if info.name in tensors:
                raise self.refuse(f"tensor {info.name!r} appears twice")
            tensors[info.name] = info
        data_offset = align(self.file.tell(), alignment)
        header = Header(metadata, tensors, data_offset, alignment)
        self.check_extents(header)
        return header

    def entry(self) -> KV:
        key = self.text()
        kind = self.kind()
        if kind is KVType.STRING:
            return KV(key, self.text(), kind)
        if kind is not KVType.ARRAY:
            return KV(key, self.unpack(_FORMATS[kind])[0], kind)
        item = self.kind()
        (count,) = self.unpack("Q")
        if item is KVType.ARRAY:
            raise self.refuse(f"key {key!r} is an array of arrays")
        if count > self.size:
            raise self.refuse(f"key {key!r} has {count} elements in a file of {self.size} bytes")
        if item is KVType.STRING:
            return KV(key, [self.text() for _ in range(count)], kind, item)
        return KV(key, list(self.unpack(f"{count}{_FORMATS[item]}")), kind, item)

    def kind(self) -> KVType:
        (number,) = self.unpack("I")
        try:
            return KVType(number)
        except ValueError:
            raise self.refuse(f"metadata type {number} is unknown") from None

    def tensor(self) -> TensorInfo:
        name = self.text()
        (n_dims,) = self.unpack("I")
        if not 0 <= n_dims <= 4:
            raise self.refuse(f"tensor {name!r} has {n_dims} dimensions")
        dims = self.unpack(f"{n_dims}Q")
        number, offset = self.unpack("IQ")
        try:
            kind = GGMLType(number)
        except ValueError:
            raise self.refuse(f"tensor {name!r} has the unknown type {number}") from None
        return TensorInfo(name, tuple(reversed(dims)), kind, offset)

    def check_extents(self, header: Header) -> None:
        for info in header.tensors.values():
            if info.offset % header.alignment:
                raise self.refuse(f"tensor {info.name!r} starts at {info.offset}, not aligned to {header.alignment}")
            end = header.data_offset + info.offset + info.type.nbytes(info.shape)
            if end > self.size:
                raise self.refuse(f"truncated: tensor {info.name!r} ends at byte {end}, the file at {self.size}")
