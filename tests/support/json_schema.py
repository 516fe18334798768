"""Whether a JSON value is valid, for the keywords of schemas that answers are held to."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
_FORMATS: Mapping[str, Callable[[str], object]] = {
    "date": datetime.date.fromisoformat,
    "time": lambda text: datetime.time.fromisoformat(re.sub(r"\.\d+", "", text)),
    "date-time": lambda text: datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", text)),
    "uuid": uuid.UUID,
}


def is_valid(value: Any, schema: Any, root: Any = None) -> bool:
    """Whether *value* is valid under *schema*; ``$ref`` points into *root*."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        found = root
        for step in schema["$ref"][1:].split("/")[1:]:
            found = found[step]
        return is_valid(value, found, root)
    checks = [
        "anyOf" not in schema or any(is_valid(value, way, root) for way in schema["anyOf"]),
        all(is_valid(value, way, root) for way in schema.get("allOf", [])),
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
        "type" not in schema or any(_TYPES[kind](value) for kind in _listed(schema["type"])),
        not isinstance(value, str) or _is_valid_text(value, schema),
        not isinstance(value, list) or _is_valid_list(value, schema, root),
        not isinstance(value, dict) or _is_valid_object(value, schema, root),
        not _TYPES["number"](value) or value >= schema.get("minimum", value),
    ]
    return all(checks)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_valid_text(value: str, schema: Mapping[str, Any]) -> bool:
    if "format" in schema:
        try:
            _FORMATS[schema["format"]](value)
        except ValueError:
            return False
    return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))


def _is_valid_list(value: list[Any], schema: Mapping[str, Any], root: Any) -> bool:
    size = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
    return size and all(is_valid(item, schema.get("items", True), root) for item in value)


def _is_valid_object(value: dict[str, Any], schema: Mapping[str, Any], root: Any) -> bool:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    return all(name in value for name in schema.get("required", [])) and all(
        is_valid(item, known.get(name, more), root) for name, item in value.items()
    )
