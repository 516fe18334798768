"""Inputs of several files: one JSON object, of which each key is a file or a part of one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests.support.fuzz.tiny import Shapes, header, text

_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "I16": 2, "F16": 2, "BF16": 2, "F64": 8, "I64": 8}
_MOST = 1 << 40


def read_parts(data: bytes) -> dict[str, Any] | None:
    """The object; None for bytes that are none, which stand for no folder."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def shapes_of(entries: dict[str, Any]) -> Shapes:
    """Types and shapes by name, out of a header."""
    return {name: (entry["dtype"], entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}


def write_sparse(path: Path, shapes: Any) -> None:
    """Write a safetensors file whose tensors, one behind the other, are a hole in the file.

    Args:
        path: the file.
        shapes: ``{name: [type, shape]}``, or anything that a mutator made of it.
    """
    entries: dict[str, Any] = {}
    at = 0
    for name, entry in shapes.items() if isinstance(shapes, dict) else ():
        try:
            dtype, shape = entry
            size = _SIZES.get(dtype, 4) * math.prod(shape)
            end = at + size if isinstance(size, int) and 0 <= size < _MOST else at
        except (TypeError, ValueError, OverflowError):
            dtype, shape, end = entry, entry, at
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    raw = text(entries)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + at)


def listed(shapes: Shapes) -> dict[str, Any]:
    """Shapes as JSON has them."""
    return {name: [entry["dtype"], entry["shape"]] for name, entry in header(shapes).items() if name != "__metadata__"}
