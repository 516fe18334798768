"""What an argument is on its way in, and what a kind of arguments is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError

MOST_SHOWN = 120  # characters of a value in a refusal


@dataclass(frozen=True)
class Argument:
    """An argument on its way in: its name, and what a refusal says besides.

    Attributes:
        name: the argument's, or the key's in a recipe file.
        hint: how to write it.
        where: what to put before the name in a refusal: the recipe file.
        base: the folder that relative paths begin at.
    """

    name: str
    hint: str = ""
    where: str = ""
    base: Path = Path()

    def refused(self, value: object, expected: str) -> QuantkitError:
        """The refusal of a value."""
        shown = repr(value)
        shown = shown if len(shown) <= MOST_SHOWN else f"{shown[: MOST_SHOWN - 3]}..."
        return QuantkitError(f"{self.where}{self.name} is {shown}; expected {expected}", hint=self.hint)


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of value, equal only to itself.

    Attributes:
        expected: what it is, in words.
        example: such a value.
        reader: makes the value of an argument, and raises :meth:`Argument.refused`.
    """

    expected: str
    example: object
    reader: Callable[[Argument, Any], Any]

    def read(self, name: str, value: object, *, example: object = None) -> Any:
        """The value of a Python function's argument.

        Args:
            name: the argument's.
            value: as written.
            example: for the hint, in place of the kind's.

        Raises:
            QuantkitError: it is something else, with its name, what was expected, and an example.
        """
        shown = self.example if example is None else example
        return self.reader(Argument(name, hint=f"write it as {name}={shown!r}"), value)
