"""Writes and reads the header of a GGUF file, the bytes before the weights: metadata and the list of tensors.

GGUF version 3, little endian, as specified in llama.cpp's ``docs`` of ggml.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from quantkit.errors import GGUFError
from quantkit.ggml.types import FTYPES, GGMLType
from quantkit.gguf.folder import refuse_folder
from quantkit.gguf.key_types import wrong_type
from quantkit.gguf.kv import FORMATS, KV, KVType, encode_text
from quantkit.gguf.llama_limits import crash

MAGIC = b"GGUF"
# llama.cpp's names for the embedding and for a separate output head.
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
VERSION = 3
ALIGNMENT = 32
MAX_NAME = 63
"""Bytes of a tensor's name, without the zero at its end in GGML_MAX_NAME."""


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the tensor list.

    Attributes:
        name: at most 63 bytes, llama.cpp's limit.
        shape: as in PyTorch, outermost first (GGUF stores the reverse).
        type: the ggml type.
        offset: offset of its first byte in the data section; a multiple of the alignment.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int


def align(size: int, alignment: int = ALIGNMENT) -> int:
    """*size* rounded up to a multiple of *alignment*."""
    return -(-size // alignment) * alignment


def encode_header(metadata: Iterable[KV], tensors: Sequence[TensorInfo], alignment: int = ALIGNMENT) -> bytes:
    """The header with its padding; its length is the offset of the data section.

    Args:
        metadata: the entries.
        tensors: the list of tensors.
        alignment: what ``general.alignment`` says.
    """
    entries = list(metadata)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(entries))]
    parts += [entry.encoded for entry in entries]
    for tensor in tensors:
        dims = tensor.shape[::-1]
        parts.append(encode_text(tensor.name))
        parts.append(struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.type, tensor.offset))
    header = b"".join(parts)
    return header.ljust(align(len(header), alignment), b"\0")


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        metadata: entries by key, in the file's order.
        tensors: by name, in the file's order.
        data_offset: start of the data section in the file.
        alignment: alignment of the tensors in the data section.
    """

    metadata: Mapping[str, KV]
    tensors: Mapping[str, TensorInfo]
    data_offset: int
    alignment: int

    def value(self, key: str, default: Any = None) -> Any:
        entry = self.metadata.get(key)
        return default if entry is None else entry.value


def file_type_name(header: Header) -> str | None:
    """The quantization type in ``general.file_type``; None if it is missing or unknown."""
    number = header.value("general.file_type")
    return next((name for name, ftype in FTYPES.items() if ftype == number), None)


_GIVE_A_FILE = "give the path of a .gguf file"


def read_header(path: Path) -> Header:
    """Parse the header of a GGUF file and check it against the file's size.

    Raises:
        GGUFError: not a GGUF file, truncated, or with impossible values.
    """
    try:
        with path.open("rb") as file:
            return _Parser(path, file).parse()
    except FileNotFoundError:
        raise GGUFError(f"{path}: no such file", hint=_GIVE_A_FILE) from None
    except OSError as error:
        if path.is_dir():
            raise refuse_folder(path) from None
        raise GGUFError(f"{path}: cannot be read ({error.strerror or error})", hint=_GIVE_A_FILE) from None


class _Parser:
    """Reads forward, and checks every length against the file's size before using it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size

    def refuse(self, why: str) -> GGUFError:
        return GGUFError(f"{self.path}: {why}", hint="download or build the file again")

    def take(self, count: int) -> bytes:
        if count > self.size:
            raise self.refuse("truncated, or not a valid GGUF header")
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
            raise self.refuse("truncated, or not a valid GGUF header")
        metadata: dict[str, KV] = {}
        for _ in range(n_entries):
            entry = self.entry()
            if entry.key in metadata:
                raise self.refuse(f"key {entry.key!r} appears twice")
            self.check_entry(entry)
            metadata[entry.key] = entry
        if why := crash(metadata):
            raise self.refuse(why)
        alignment = metadata["general.alignment"].value if "general.alignment" in metadata else ALIGNMENT
        if alignment < 1 or alignment & (alignment - 1):
            raise self.refuse(f"alignment {alignment!r} is not a power of two")
        tensors: dict[str, TensorInfo] = {}
        for _ in range(n_tensors):
            info = self.tensor()
            if info.name in tensors:
                raise self.refuse(f"tensor {info.name!r} appears twice")
            tensors[info.name] = info
        data_offset = align(self.file.tell(), alignment)
        if tensors and data_offset % ALIGNMENT:
            # llama.cpp maps the file, and an assertion on the address of its first tensor ends the process.
            raise self.refuse(f"the weights begin at byte {data_offset}; llama.cpp needs a multiple of {ALIGNMENT}")
        header = Header(metadata, tensors, data_offset, alignment)
        self.check_extents(header)
        return header

    def entry(self) -> KV:
        key = self.text()
        kind = self.kind()
        if kind is KVType.STRING:
            return KV(key, self.text(), kind)
        if kind is not KVType.ARRAY:
            return KV(key, self.unpack(FORMATS[kind])[0], kind)
        item = self.kind()
        (count,) = self.unpack("Q")
        if item is KVType.ARRAY:
            raise self.refuse(f"key {key!r} is an array of arrays")
        if count > self.size:
            raise self.refuse(f"key {key!r} has {count} elements in a file of {self.size} bytes")
        if item is KVType.STRING:
            return KV(key, [self.text() for _ in range(count)], kind, item)
        return KV(key, list(self.unpack(f"{count}{FORMATS[item]}")), kind, item)

    def check_entry(self, entry: KV) -> None:
        """Refuse an entry with which llama.cpp refuses the file, or ends its process."""
        if not entry.key or "\0" in entry.key:
            raise self.refuse(f"key {entry.key!r} is empty or contains a NUL character")
        if why := wrong_type(entry):
            raise self.refuse(why)

    def kind(self) -> KVType:
        (number,) = self.unpack("I")
        try:
            return KVType(number)
        except ValueError:
            raise self.refuse(f"metadata type {number} is unknown") from None

    def tensor(self) -> TensorInfo:
        name = self.text()
        if len(name.encode()) > MAX_NAME or "\0" in name:
            raise self.refuse(f"tensor {name!r}: a name has at most {MAX_NAME} bytes, and no NUL character")
        (n_dims,) = self.unpack("I")
        if not 1 <= n_dims <= 4:
            raise self.refuse(f"tensor {name!r} has {n_dims} dimensions")
        dims = self.unpack(f"{n_dims}Q")
        number, offset = self.unpack("IQ")
        try:
            kind = GGMLType(number)
        except ValueError:
            raise self.refuse(f"tensor {name!r} has the unknown type {number}") from None
        if 0 in dims or dims[0] % kind.block:
            raise self.refuse(
                f"tensor {name!r} has shape {list(reversed(dims))}, which does not fit the blocks of {kind.label}"
            )
        return TensorInfo(name, tuple(reversed(dims)), kind, offset)

    def check_extents(self, header: Header) -> None:
        expected = 0
        for info in header.tensors.values():
            if info.offset != expected:
                raise self.refuse(
                    f"tensor {info.name!r} starts at byte {info.offset} of the data; expected {expected}, the end "
                    "of the one before"
                )
            end = header.data_offset + info.offset + info.type.nbytes(info.shape)
            if end > self.size:
                raise self.refuse(
                    f"truncated: tensor {info.name!r} ends at byte {end}, but the file has {self.size} bytes"
                )
            expected = align(end - header.data_offset, header.alignment)
