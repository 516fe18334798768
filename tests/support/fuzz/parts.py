"""Inputs of several files: one JSON object, of which each key is a file or a part of one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.fuzz.tiny import Shapes, header, text

_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "I16": 2, "F16": 2, "BF16": 2, "F64": 8, "I64": 8}
_MOST = 1 << 40
_FILLED = 1 << 20  # bytes


def of_parts(read: Callable[[dict[str, Any]], object]) -> Callable[[bytes], None]:
    """A reader of bytes out of one of the parts; bytes that are no object stand for no folder, and are not read."""

    def read_bytes(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict):
            read(value)

    return read_bytes


def is_name(name: str) -> bool:
    """Whether a folder takes a file of this name, and keeps it there."""
    return name.isascii() and name.isprintable() and "/" not in name and name not in ("", ".", "..") and len(name) < 200


def write_sparse(path: Path, shapes: Any, fill: bytes = b"\0") -> None:
    """Write a safetensors file whose tensors, one behind the other, are a hole in the file.

    Args:
        path: the file.
        shapes: ``{name: [type, shape]}``, or anything that a mutator made of it.
        fill: a byte other than 0 is written instead of a hole, unless the tensors are large.
    """
    entries: dict[str, Any] = {}
    at = 0
    for name, entry in shapes.items() if isinstance(shapes, dict) else ():
        try:
            dtype, shape = entry
            whole = all(isinstance(dim, int) for dim in shape)  # a product with a list is a longer list
            size = _SIZES.get(dtype, 4) * math.prod(shape) if whole else 0
            end = at + size if 0 <= size < _MOST else at
        except (TypeError, ValueError, OverflowError):
            dtype, shape, end = entry, entry, at
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    raw = text(entries)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        if fill != b"\0" and at <= _FILLED:
            file.write(fill * at)
        file.truncate(8 + len(raw) + at)


def listed(shapes: Shapes) -> dict[str, Any]:
    """Shapes as JSON has them."""
    return {name: [entry["dtype"], entry["shape"]] for name, entry in header(shapes).items() if name != "__metadata__"}
