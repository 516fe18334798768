"""JSON values in what a model says: those alone that every reader of JSON takes.

Python's own reader also takes NaN, infinities and halves of characters, which no answer to a client can carry, and its
literals can be sets, bytes or numbers of any length. llama.cpp takes none of them either.
"""

from __future__ import annotations

import ast
import json
from typing import Any

_ERRORS = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError)


def written(value: object) -> str | None:
    """A value as JSON text; None if it is no JSON."""
    try:
        found = json.dumps(value, ensure_ascii=False, allow_nan=False)
        found.encode()
    except _ERRORS:
        return None
    return found


def read_value(text: str) -> Any:
    """The value that a text is, as JSON or, as some templates write values, as Python has it.

    Raises:
        ValueError: it is none.
    """
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except _ERRORS:
            continue
        if written(value) is not None:
            return value
    raise ValueError(text)
