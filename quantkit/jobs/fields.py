"""One row per setting: its key in Python and TOML, its flags, its kind, its help text, its default and an example.

Recipes, recipe files, the command line's options and ``docs/reference.md`` are made from these rows. Reading them
imports neither torch nor numpy, because ``--help`` does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.jobs.kind import Argument, Kind
from quantkit.system.did_you_mean import did_you_mean

REQUIRED: Any = object()
"""The default of a field that has none."""


@dataclass(frozen=True)
class Field:
    """A setting.

    Attributes:
        name: keyword in Python, and key in a recipe file.
        kind: of its values.
        help: what it does, the default, and an example where that helps; a sentence or two.
        default: its value where it is not given; None also stands for a value that is found out later.
        flags: options of the command line; none for an argument.
        metavar: what stands for the value in ``--help``, "" for click's choice.
        choices: the only values there are, () for any.
        example: a value, None for the kind's.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    flags: tuple[str, ...] = ()
    metavar: str = ""
    choices: tuple[str, ...] = ()
    example: object = None

    def read(self, value: object, *, file: Path | None = None) -> Any:
        """The setting's value from what a person wrote; what was read already comes back as it is.

        Args:
            value: as written.
            file: the recipe file that it stands in; relative paths begin there.

        Raises:
            QuantkitError: a value of another kind, with the field's name and an example.
        """
        if value is None and self.default is None:
            return None
        example = self.kind.example if self.example is None else self.example
        if file is None:
            at = Argument(self.name, f"write it as {self.name}={example!r}")
        else:
            at = Argument(self.name, f"write it as {toml_line(self.name, example)}", f"{file}: ", file.parent)
        return self.kind.reader(at, value)


def by_name(fields: Iterable[Field]) -> dict[str, Field]:
    """The rows by their key."""
    return {field.name: field for field in fields}


def refuse_unknown(names: Iterable[str], known: Collection[str], *, what: str, where: str = "") -> None:
    """Refuse names that stand for nothing.

    Args:
        names: as written.
        known: those that stand for something.
        what: ``key`` or ``argument``.
        where: what to put before it: the recipe file.

    Raises:
        QuantkitError: the first that is unknown, with the known ones and the closest of them.
    """
    for name in names:
        if name not in known:
            meant = did_you_mean(name, known)
            listed = f"known are: {', '.join(sorted(known))}"
            raise QuantkitError(f"{where}unknown {what} {name!r}", hint=f"{meant} {listed}".lstrip())


def toml_line(key: str, value: object) -> str:
    """``key = value``, as a recipe file has it."""
    return f"{key} = {toml_value(value)}"


def toml_value(value: object) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(toml_line(key, item) for key, item in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
