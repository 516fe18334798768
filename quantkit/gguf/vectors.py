"""Norms and biases that llama.cpp cannot compute with: it wants them as F32, and aborts when such a file is run.

Some programs (MLX's ``fuse --export-gguf``) write them as F16.
"""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo

_NARROW = (GGMLType.F16, GGMLType.BF16)


def is_narrow_vector(shape: tuple[int, ...], kind: GGMLType) -> bool:
    """Whether a tensor is a vector of a 16-bit type.

    Args:
        shape: outermost first.
        kind: its type.
    """
    return kind in _NARROW and all(size == 1 for size in shape[:-1])


def narrow_vectors(tensors: Iterable[TensorInfo]) -> str:
    """The vectors of a 16-bit type in a few words: number, first name, type; empty if there are none."""
    found = [info for info in tensors if is_narrow_vector(info.shape, info.type)]
    if not found:
        return ""
    more = f" and {len(found) - 1} more norms or biases are" if len(found) > 1 else " is"
    return f"{found[0].name!r}{more} {found[0].type.label}"
