"""Reads an untrusted JSON object key by key: a value of another kind than expected is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

_Kind = TypeVar("_Kind")
_LARGEST = 1 << 63


class Fields:
    """The keys of an object.

    Keys that are never read are ignored: a later version may write more of them.
    """

    def __init__(self, value: object, where: str = "") -> None:
        """Take an object.

        Args:
            value: the value in the JSON.
            where: its location, such as ``chat`` or ``models[0]``; "" for the whole file.

        Raises:
            ValueError: it is not an object.
        """
        if not isinstance(value, Mapping):
            raise ValueError(f'"{where}" must be an object' if where else "it must be an object")
        self._values: Mapping[str, Any] = value
        self._where = where

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def text(self, key: str) -> str:
        """A text.

        Raises:
            ValueError: it is missing, or something else.
        """
        return self._of(str, key, "a text")

    def optional_text(self, key: str) -> str | None:
        """A text; None if it is null or missing."""
        return self.text(key) if key in self else None

    def size(self, key: str) -> int:
        """A number of bytes.

        Raises:
            ValueError: it is missing, or not a whole number of at least 0 that a file can have.
        """
        value = self._of(int, key, "a whole number")
        if value < 0:
            raise self.error(key, "a whole number from 0 on")
        if value >= _LARGEST:
            raise self.error(key, "a number of bytes that a file can have")
        return value

    def number(self, key: str) -> float:
        """A number.

        Raises:
            ValueError: it is missing, infinite, or something else.
        """
        value = self.value(key)
        if not isinstance(value, int | float) or as_float(value) is None:
            raise self.error(key, "a number")
        return value

    def scalar(self, key: str) -> str:
        """A text or a number, as text.

        Raises:
            ValueError: it is missing, or something else.
        """
        value = self.value(key)
        return value if isinstance(value, str) else str(self.number(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts.

        Raises:
            ValueError: it is missing, or something else.
        """
        values = self._of(list, key, "a list of texts")
        for value in values:
            if not isinstance(value, str):
                raise self.error(key, "a list of texts")
        return tuple(values)

    def fields(self, key: str) -> Fields:
        """An object.

        Raises:
            ValueError: it is missing, or something else.
        """
        return Fields(self._of(dict, key, "an object"), self._name(key))

    def each(self, key: str) -> list[Fields]:
        """A list of objects.

        Raises:
            ValueError: it is missing, or something else.
        """
        values = self._of(list, key, "a list of objects")
        return [Fields(value, f"{self._name(key)}[{number}]") for number, value in enumerate(values)]

    def each_list(self, key: str) -> list[list[Fields]]:
        """A list of lists of objects.

        Raises:
            ValueError: it is missing, or something else.
        """
        values = self._of(list, key, "a list of lists")
        lists = Fields({str(number): value for number, value in enumerate(values)}, self._name(key))
        return [lists.each(number) for number in lists]

    def plain(self) -> dict[str, Any]:
        """The whole object, as in the JSON."""
        return dict(self._values)

    def value(self, key: str) -> object:
        """The value of a key, of any kind.

        Raises:
            ValueError: it is missing.
        """
        if key not in self._values:
            raise ValueError(f'"{self._name(key)}" is missing')
        return self._values[key]

    def error(self, key: str, wanted: str, part: object = None) -> ValueError:
        """The error for a value that is not what is *wanted*.

        Args:
            key: the key of the value.
            wanted: what it must be, in words.
            part: the part of the value that is wrong; None for all of it.
        """
        wrong = self._values.get(key) if part is None else part
        return ValueError(f'"{self._name(key)}" must be {wanted}, not {_short(wrong)}')

    def _of(self, kind: type[_Kind], key: str, wanted: str) -> _Kind:
        value = self.value(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(key, wanted)
        return value

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key


def as_float(value: object) -> float | None:
    """A number as a float; None for what is none, or a whole number that is too large for one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
