"""The keywords of a JSON schema, checked: what cannot be held is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.chat_template.said_json import written
from quantkit.serve.schema_dialect import FORMATS, SchemaError

_MOST_ITEMS = 500


def properties(asked: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], list[str]]:
    """The properties of an object by name, and the names of those that are required.

    Raises:
        SchemaError: they are something else.
    """
    known, required = asked.get("properties", {}), asked.get("required", [])
    if not isinstance(known, Mapping) or not _texts(required):
        raise refused(f"{where}: properties must be an object, and required a list of names")
    return known, required


def format_rule(name: object, where: str) -> str:
    """The text of a string with a format.

    Raises:
        SchemaError: it is none that can be held.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise refused(f"{where}: format {name!r:.40} is not supported, only {', '.join(FORMATS)}")
    return FORMATS[name]


def length_range(asked: Mapping[str, Any], where: str) -> tuple[int, int | None]:
    """The least and the largest number of characters of a string.

    Raises:
        SchemaError: they are too large, or no range.
    """
    return size_range(asked, "minLength", "maxLength", where)


def size_range(asked: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    """The values of two keywords.

    Raises:
        SchemaError: they are too large, or no range.
    """
    given = {name: value for name in (low, high) if (value := asked.get(name)) is not None}
    for name, value in given.items():
        if not (type(value) is int and 0 <= value <= _MOST_ITEMS):
            raise refused(f"{where}: {name} must be from 0 to {_MOST_ITEMS}, not {value!r:.40}")
    least, most = given.get(low, 0), given.get(high)
    if most is not None and least > most:
        raise refused(f"{where}: {low} is more than {high}")
    return least, most


def literals(values: object, kind: object, where: str) -> list[object]:
    """The values of ``enum``, checked.

    Raises:
        SchemaError: it is no list, or a value does not have the type that the schema names.
    """
    if not isinstance(values, list) or not values:
        raise refused(f"{where}: enum must be a list of values")
    kinds = kind if isinstance(kind, list) else [kind]
    if any(written(value) is None for value in values):  # JSON has neither NaN nor infinity, but pydantic reads them
        raise refused(f"{where}: a value of enum or const cannot be written as JSON")
    if kind is not None and any(_type(value) not in kinds for value in values):
        raise refused(f"{where}: a value of enum or const does not have the type")
    return values


def _type(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def listed(value: object, where: str) -> Sequence[object]:
    """The schemas of ``anyOf`` and the like.

    Raises:
        SchemaError: it is no list of them.
    """
    if not isinstance(value, list) or not value:
        raise refused(f"{where} must be a list of schemas")
    return value


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def only(asked: Mapping[str, Any], allowed: set[str], where: str) -> None:
    """Refuse keywords but for those.

    Raises:
        SchemaError: there is another one.
    """
    if other := next((key for key in asked if key not in allowed), None):
        raise refused(f"{where}: {other!r:.80} is not supported here")


def refused(message: str) -> SchemaError:
    """The error for a schema that cannot be held."""
    return SchemaError(message)
