"""JSON of any size as a response, written so that other threads get their turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.responses import JSONResponse

_PORTION = 64  # elements of a list that are written at once


class WholeResponse(JSONResponse):
    """As starlette's, which would not let another thread run before it has written all of it: seconds for megabytes."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return "".join(_portions(content)).encode()


def _portions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for at, (key, inner) in enumerate(value.items()):
            yield f"{',' if at else ''}{json.dumps(key, ensure_ascii=False)}:"
            yield from _portions(inner)
        yield "}"
    elif isinstance(value, list) and len(value) <= _PORTION:
        yield "["
        for at, inner in enumerate(value):
            yield "," if at else ""
            yield from _portions(inner)
        yield "]"
    elif isinstance(value, list):
        for start in range(0, len(value), _PORTION):
            portion = _written(value[start : start + _PORTION])
            yield f"{',' if start else '['}{portion[1:-1]}"
        yield "]"
    else:
        yield _written(value)


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
