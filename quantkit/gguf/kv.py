"""Typed metadata entries of a GGUF file, and their bytes.

The gguf library can do this, but it builds Python objects for every token and merge. A Llama 3 vocabulary has 400,000
of them, which takes seconds. Here a string array is encoded at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from numbers import Real
from typing import Any

from quantkit.errors import GGUFError

# The largest float32.
_F32_MAX = 3.4028234663852886e38


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


FORMATS = {
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
        """The entry's bytes in a file; computed once, because a vocabulary goes into every output.

        Raises:
            GGUFError: a value of another kind than the type.
        """
        try:
            return encode_text(self.key) + struct.pack("<I", self.type) + _value(self)
        except (struct.error, OverflowError, TypeError) as error:
            raise GGUFError(
                f"{self.key} has a value that GGUF cannot store ({error}): {str(self.value)[:80]}"
            ) from None


# The constructors below raise GGUFError, with the key, for a value that GGUF cannot store.


def u16(key: str, value: float) -> KV:
    return KV(key, int(_within(key, value, 0, 2**16 - 1)), KVType.UINT16)


def u32(key: str, value: float) -> KV:
    return KV(key, int(_within(key, value, 0, 2**32 - 1)), KVType.UINT32)


def i32(key: str, value: float) -> KV:
    return KV(key, int(_within(key, value, -(2**31), 2**31 - 1)), KVType.INT32)


def f32(key: str, value: float) -> KV:
    return KV(key, float(_within(key, value, -_F32_MAX, _F32_MAX)), KVType.FLOAT32)


def boolean(key: str, value: bool) -> KV:
    return KV(key, bool(value), KVType.BOOL)


def string(key: str, value: str) -> KV:
    _check_unicode(key, value)
    return KV(key, value, KVType.STRING)


def array(key: str, value: Sequence[Any], item: KVType) -> KV:
    if item is KVType.STRING:
        try:
            whole = "".join(value)
        except TypeError as error:
            raise GGUFError(f"{key} is not a list of texts ({error})") from None
        _check_unicode(key, whole)
    return KV(key, value, KVType.ARRAY, item)


def _within(key: str, value: float, low: float, high: float) -> float:
    sound = isinstance(value, Real)  # of a config.json, it may be anything
    if not sound or not low <= value <= high:  # NaN is in no range
        raise GGUFError(f"{key} is {str(value)[:80]}; expected a value from {low} to {high}")
    return value


def _check_unicode(key: str, text: str) -> None:
    if not isinstance(text, str):
        raise GGUFError(f"{key} is {str(text)[:80]}; expected a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GGUFError(f"{key} is not valid Unicode: it contains half of a surrogate pair") from None


def encode_text(text: str) -> bytes:
    """A string in GGUF: its length and its bytes."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(entry: KV) -> bytes:
    if entry.type is KVType.STRING:
        return encode_text(entry.value)
    if entry.type is not KVType.ARRAY:
        return struct.pack("<" + FORMATS[entry.type], entry.value)
    assert entry.item is not None
    head = struct.pack("<IQ", entry.item, len(entry.value))
    if entry.item is KVType.STRING:
        return head + _texts(entry.value)
    return head + struct.pack(f"<{len(entry.value)}{FORMATS[entry.item]}", *entry.value)


def _texts(values: Sequence[str]) -> bytes:
    """Each text as :func:`encode_text` encodes it. The texts are short, so each length is packed only once."""
    raw = list(map(str.encode, values))
    lengths = list(map(len, raw))
    packed = {length: struct.pack("<Q", length) for length in set(lengths)}
    parts = [b""] * (2 * len(raw))
    parts[::2], parts[1::2] = map(packed.__getitem__, lengths), raw
    return b"".join(parts)
