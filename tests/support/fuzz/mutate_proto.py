"""Changes protobuf messages by their fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

_NUMBERS = (0, 1, 2, 3, 4, 5, 6, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**70)
_TEXTS = (b"", b"\0", b"\xff", "▁".encode(), b"<0x00>", b"<s>", b"x" * 300)


@dataclass(frozen=True)
class _Field:
    number: int
    wire: int
    value: bytes | int


@dataclass(frozen=True)
class ProtoMutator:
    """Changes a message a few times, also those in it; what is none is left to libFuzzer.

    Attributes:
        messages: numbers of fields that are messages themselves.
    """

    messages: Sequence[int] = ()

    def __call__(self, data: bytes, random: Random) -> bytes:
        """The changed message; *data*, if it is none."""
        try:
            fields = list(_fields(data))
        except (ValueError, IndexError):
            return data
        for _ in range(random.choice((1, 1, 2, 3))):
            fields = self._step(fields, random)
        return b"".join(map(_encode, fields))

    def _step(self, fields: list[_Field], random: Random) -> list[_Field]:
        if not fields or not random.randrange(20):
            new = _Field(random.randrange(1, 50), random.choice((0, 2, 5)), random.choice(_NUMBERS))
            return [*fields, new]
        # Of a long list of pieces the other fields would never come up.
        number = random.choice([field.number for field in {field.number: field for field in fields}.values()])
        at = random.choice([at for at, field in enumerate(fields) if field.number == number])
        field = fields[at]
        new_fields: list[_Field]
        match random.randrange(7):
            case 0:
                new_fields = []
            case 1:
                new_fields = [field] * random.choice((2, 3, 200))
            case 2:
                new_fields = [_Field(random.randrange(1, 50), field.wire, field.value)]
            case 3:
                new_fields = [_Field(field.number, random.randrange(8), field.value)]
            case _:
                new_fields = [_Field(field.number, field.wire, self._value(field, random))]
        return [*fields[:at], *new_fields, *fields[at + 1 :]]

    def _value(self, field: _Field, random: Random) -> bytes | int:
        if not isinstance(field.value, bytes):
            return random.choice((*_NUMBERS, field.value + 1))
        if field.number in self.messages and random.random() < 0.8:
            return ProtoMutator()(field.value, random)
        if field.wire == 5:
            return random.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\0\0", b"\xff\xff\x7f\xff"))
        at = random.randrange(len(field.value) + 1)
        cut = field.value[:at] + random.choice((b"", b"\xff", b"a")) + field.value[at + 1 :]
        return random.choice((*_TEXTS, cut, cut, cut))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def _fields(data: bytes) -> list[_Field]:
    at, found = 0, []

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            found.append(_Field(key >> 3, 0, varint()))
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        if key & 7 not in (1, 2, 5) or at + size > len(data):
            raise ValueError("no message")
        found.append(_Field(key >> 3, key & 7, data[at : at + size]))
        at += size
    return found


def _encode(field: _Field) -> bytes:
    key = _varint(field.number << 3 | field.wire)
    if isinstance(field.value, int):
        return key + (_varint(field.value) if field.wire != 5 else field.value.to_bytes(16, "little")[:4])
    return key + (_varint(len(field.value)) if field.wire == 2 else b"") + field.value
