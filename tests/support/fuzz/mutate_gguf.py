"""Changes GGUF files by their structure: keys, types, values, counts, shapes, types and places of tensors.

The file is taken apart without any check and put together again, so that what is not changed still fits: one wrong
thing gets as far as one wrong thing can.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_NUMBERS = (
    *(0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 255, 256, 511, 512, 513, 32767, 65535, 65536, 2**31 - 1, 2**31),
    *(2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31), -(2**63)),
    *(0.5, -0.5, 1e-40, 1e30, float("inf"), float("nan")),
)
_TEXTS = (
    b"",
    b"a",
    b" ",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "é".encode(),
    b"x" * 64,
    b"x" * 300,
    b"general.alignment",
)
_STEPS = (1, 1, 1, 1, 2, 3)


@dataclass(frozen=True)
class Entry:
    """Key, type and value of metadata; *item* is the type of an array's elements."""

    key: bytes
    kind: int
    value: Any
    item: int = 0


@dataclass(frozen=True)
class Tensor:
    """An entry of the list of tensors; *dims* innermost first."""

    name: bytes
    dims: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Parts:
    """A GGUF file taken apart. The counts are the file's where they are None.

    Attributes:
        version, n_tensors, n_entries, entries, tensors: as in the file.
        padding: of the header.
        data: everything behind the header.
    """

    version: int
    entries: tuple[Entry, ...]
    tensors: tuple[Tensor, ...]
    data: bytes
    n_tensors: int | None = None
    n_entries: int | None = None
    padding: int = 32


def take_apart(data: bytes) -> Parts:
    """The parts of a file.

    Raises:
        ValueError, struct.error: it is none.
    """
    at = 0

    def take(fmt: str) -> Any:
        nonlocal at
        values = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return values[0] if len(values) == 1 else values

    def text() -> bytes:
        nonlocal at
        length = take("Q")
        if length > len(data) - at:
            raise ValueError("a text that is longer than the file")
        at += length
        return data[at - length : at]

    def value(kind: int) -> Any:
        return text() if kind == _STRING else take(_FORMATS[kind])

    if data[:4] != b"GGUF":
        raise ValueError("no GGUF")
    at = 4
    version, n_tensors, n_entries = take("I"), take("Q"), take("Q")
    if max(n_tensors, n_entries) > len(data):
        raise ValueError("more entries than bytes")
    entries = []
    for _ in range(n_entries):
        key, kind = text(), take("I")
        if kind != _ARRAY:
            entries.append(Entry(key, kind, value(kind)))
            continue
        item, count = take("I"), take("Q")
        if count > len(data):
            raise ValueError("more elements than bytes")
        entries.append(Entry(key, kind, [value(item) for _ in range(count)], item))
    tensors = []
    for _ in range(n_tensors):
        name, n_dims = text(), take("I")
        if n_dims > 8:
            raise ValueError("too many dimensions")
        tensors.append(Tensor(name, tuple(take("Q") for _ in range(n_dims)), take("I"), take("Q")))
    start = -(-at // 32) * 32
    return Parts(version, tuple(entries), tuple(tensors), data[start:])


def put_together(parts: Parts) -> bytes:
    """The file of these parts; numbers that do not fit their type are cut off."""
    counts = [len(parts.tensors) if parts.n_tensors is None else parts.n_tensors]
    counts.append(len(parts.entries) if parts.n_entries is None else parts.n_entries)
    out = [b"GGUF", _number(4, parts.version), *(_number(10, count) for count in counts)]
    for entry in parts.entries:
        out += [_text(entry.key), _number(4, entry.kind)]
        if entry.kind == _ARRAY:
            values = entry.value if isinstance(entry.value, list) else [entry.value]
            out += [_number(4, entry.item), _number(10, len(values)), *(_scalar(entry.item, one) for one in values)]
        else:
            out.append(_scalar(entry.kind, entry.value))
    for tensor in parts.tensors:
        out += [_text(tensor.name), _number(4, len(tensor.dims)), *(_number(10, dim) for dim in tensor.dims)]
        out += [_number(4, tensor.kind), _number(10, tensor.offset)]
    header = b"".join(out)
    return header.ljust(-(-len(header) // parts.padding) * parts.padding, b"\0") + parts.data


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _scalar(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value if isinstance(value, bytes) else str(value).encode())
    return _number(kind, value) if kind in _FORMATS else b""


def _number(kind: int, value: Any) -> bytes:
    if isinstance(value, bytes | list):
        value = len(value)
    fmt = "<" + _FORMATS[kind]
    if fmt[1] in "fd":
        try:
            return struct.pack(fmt, value)
        except (OverflowError, struct.error):
            return struct.pack(fmt, math.inf)
    whole = int(value) if math.isfinite(value) else 0
    size = struct.calcsize(fmt)
    return (whole & ((1 << 8 * size) - 1)).to_bytes(size, "little")


@dataclass(frozen=True)
class GgufMutator:
    """Changes a GGUF file a few times; what is none is left to libFuzzer.

    Attributes:
        keys: keys with a meaning to the reader, which may be missing.
        texts: values with a meaning.
        names: names of tensors with a meaning.
    """

    keys: Sequence[bytes] = ()
    texts: Sequence[bytes] = ()
    names: Sequence[bytes] = ()
    steps: Sequence[int] = field(default=_STEPS)

    def __call__(self, data: bytes, random: Random) -> bytes:
        """The changed file; *data*, if it is none."""
        try:
            parts = take_apart(data)
        except (ValueError, KeyError, struct.error):
            return data
        for _ in range(random.choice(self.steps)):
            parts = self._step(parts, random)
        return put_together(parts)

    def _step(self, parts: Parts, random: Random) -> Parts:
        choices: list[Callable[[Parts, Random], Parts]] = [_frame, self._add, self._add_tensor]
        if parts.entries:
            choices += [self._entry] * 8
        if parts.tensors:
            choices += [self._tensor] * 6
        return random.choice(choices)(parts, random)

    def _add(self, parts: Parts, random: Random) -> Parts:
        kind = random.choice((*_FORMATS, _STRING))
        value = random.choice((*self.texts, *_TEXTS)) if kind == _STRING else random.choice(_NUMBERS)
        entry = Entry(random.choice((*self.keys, *_TEXTS)), kind, value)
        if random.random() < 0.3:
            entry = replace(entry, kind=_ARRAY, item=kind, value=[value] * random.choice((0, 1, 2, 4, 300)))
        at = random.randrange(len(parts.entries) + 1)
        return replace(parts, entries=(*parts.entries[:at], entry, *parts.entries[at:]))

    def _entry(self, parts: Parts, random: Random) -> Parts:
        at = random.randrange(len(parts.entries))
        entry = parts.entries[at]
        new: tuple[Entry, ...] = ()
        match random.randrange(12):
            case 0:
                new = ()
            case 1:
                new = (entry, entry)
            case 2:
                new = (replace(entry, key=_bytes(entry.key, (*self.keys, *_TEXTS), random)),)
            case 3:
                new = (replace(entry, kind=random.choice((*range(14), 255, 2**31))),)
            case 4 if entry.kind == _ARRAY:
                new = (replace(entry, item=random.choice((*range(14), 255))),)
            case 5:
                wrapped = replace(
                    entry, kind=_ARRAY, item=entry.kind, value=[entry.value] * random.choice((0, 1, 2, 3))
                )
                new = (
                    wrapped if entry.kind != _ARRAY else replace(entry, kind=entry.item, value=(*entry.value, 0)[0]),
                )
            case _:
                new = (replace(entry, value=self._value(entry, random)),)
        return replace(parts, entries=(*parts.entries[:at], *new, *parts.entries[at + 1 :]))

    def _value(self, entry: Entry, random: Random) -> Any:
        if entry.kind != _ARRAY or not isinstance(entry.value, list):
            return self._other(entry.value, random)
        values = list(entry.value)
        at = random.randrange(len(values) + 1)
        match random.randrange(5):
            case 0 if values:
                del values[at - 1]
            case 1:
                values[at:at] = values[at - 1 : at] * random.choice((1, 2, 300)) if values else [0]
            case 2:
                values = values[:at]
            case _ if values:
                values[at - 1] = self._other(values[at - 1], random)
        return values

    def _other(self, old: Any, random: Random) -> Any:
        if isinstance(old, bytes):
            return _bytes(old, (*self.texts, *_TEXTS), random)
        if isinstance(old, list):  # of an entry that has become no array
            return old[0] if old else 0
        near = (old + 1, old - 1, old * 2, -old)
        return random.choice((*_NUMBERS, *near, *near, *near))

    def _add_tensor(self, parts: Parts, random: Random) -> Parts:
        name = random.choice((*self.names, *_TEXTS))
        tensor = Tensor(name, tuple(random.choice((1, 2, 32, 64)) for _ in range(random.randrange(6))), 0, 0)
        return replace(parts, tensors=(*parts.tensors, tensor))

    def _tensor(self, parts: Parts, random: Random) -> Parts:
        at = random.randrange(len(parts.tensors))
        tensor = parts.tensors[at]
        new: tuple[Tensor, ...] = ()
        match random.randrange(8):
            case 0:
                new = ()
            case 1:
                new = (tensor, tensor)
            case 2:
                new = (replace(tensor, name=_bytes(tensor.name, (*self.names, *_TEXTS), random)),)
            case 3:
                new = (replace(tensor, kind=random.choice((*range(45), 2**31, 2**32 - 1))),)
            case 4:
                new = (replace(tensor, offset=self._other(tensor.offset, random)),)
            case 5:
                dims = tensor.dims[1:] if random.random() < 0.5 else (*tensor.dims, random.choice((1, 1, 2, 0)))
                new = (replace(tensor, dims=dims),)
            case _ if tensor.dims:
                which = random.randrange(len(tensor.dims))
                dims = (*tensor.dims[:which], self._other(tensor.dims[which], random), *tensor.dims[which + 1 :])
                new = (replace(tensor, dims=dims),)
        return replace(parts, tensors=(*parts.tensors[:at], *new, *parts.tensors[at + 1 :]))


def _frame(parts: Parts, random: Random) -> Parts:
    """Another version, count, padding, or fewer or more bytes of data."""
    match random.randrange(6):
        case 0:
            return replace(parts, version=random.choice((0, 1, 2, 4, 2**24 * 3, 2**32 - 1)))
        case 1:
            return replace(parts, n_tensors=random.choice((len(parts.tensors) + 1, 0, 2**31, 2**62, 2**64 - 1)))
        case 2:
            return replace(parts, n_entries=random.choice((len(parts.entries) + 1, 0, 2**31, 2**62, 2**64 - 1)))
        case 3:
            return replace(parts, padding=random.choice((1, 4, 8, 16, 64, 128)))
        case 4:
            return replace(parts, data=parts.data[: random.randrange(len(parts.data) + 1)])
    return replace(parts, data=parts.data + bytes(random.randrange(100)))


def _bytes(old: bytes, others: Sequence[bytes], random: Random) -> bytes:
    at = random.randrange(len(old) + 1)
    match random.randrange(4):
        case 0:
            return old[:at] + old[at + 1 :]
        case 1:
            return old[:at] + random.choice((b"\0", b"\xff", b".", b"0", b" ")) + old[at:]
        case 2:
            return old + old
    return random.choice(others)
