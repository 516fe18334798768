"""The formats with blocks of 32 weights and no search, in numpy operations.

Equal to ggml's ``quantize_row_q4_0_ref`` and its siblings, byte for byte. With an importance matrix ggml uses other
algorithms for all of them except Q8_0.
"""

from __future__ import annotations

import numpy as np

from quantkit.kernels.arithmetic import Bytes, Floats, first_largest, half_bytes, quiet
from quantkit.kernels.formats import BlockFormat
from quantkit.kernels.super_block import pack_levels

_BLOCK = 32


def encode_blocks(form: BlockFormat, rows: Floats) -> Bytes:
    """Encode rows.

    Args:
        form: the format.
        rows: float32, a multiple of 32 weights.

    Returns:
        uint8, shape [blocks, bytes per block].
    """
    x = rows.reshape(-1, _BLOCK)
    if form.bits == 8:
        return _encode_bytes(x)
    return _encode_symmetric(x, form.bits) if len(form.halves) == 1 else _encode_affine(x, form.bits)


def _encode_bytes(x: Floats) -> Bytes:
    """Q8_0: a scale and 32 signed bytes."""
    d = np.abs(x).max(axis=1) / np.float32(127)
    scaled = x * _inverse(d)[:, None]
    whole = np.trunc(scaled)
    # roundf: halves away from zero. numpy rounds them to even.
    levels = whole + np.where(np.abs(scaled - whole) >= 0.5, np.sign(scaled), np.float32(0))
    return np.concatenate([half_bytes(d), levels.astype(np.int8).view(np.uint8)], axis=1)


def _encode_symmetric(x: Floats, bits: int) -> Bytes:
    """Q4_0 and Q5_0: a scale, the fifth bits, and 16 bytes of low bits."""
    half = 1 << bits - 1
    d = first_largest(x) / np.float32(-half)
    levels = np.minimum((x * _inverse(d)[:, None] + np.float32(half + 0.5)).astype(np.int8), 2 * half - 1)
    return np.concatenate([half_bytes(d), pack_levels(levels.view(np.uint8), bits)], axis=1)


def _encode_affine(x: Floats, bits: int) -> Bytes:
    """Q4_1 and Q5_1: a scale, a minimum, the fifth bits, and 16 bytes of low bits."""
    top = (1 << bits) - 1
    low = _first_smallest(x)
    d = (x.max(axis=1) - low + np.float32(0)) / np.float32(top)  # no -0 from zeros of either sign
    levels = np.minimum(((x - low[:, None]) * _inverse(d)[:, None] + np.float32(0.5)).astype(np.int8), top)
    return np.concatenate([half_bytes(d), half_bytes(low), pack_levels(levels.view(np.uint8), bits)], axis=1)


def _first_smallest(x: Floats) -> Floats:
    """The first smallest value of each row; of zeros of both signs, the first."""
    low: Floats = x.min(axis=1)
    zeros = np.flatnonzero(low == 0)
    if zeros.size:
        some = x[zeros]
        first = (some == 0).argmax(axis=1)
        low[zeros] = some[np.arange(zeros.size), first]
    return low


def _inverse(d: Floats) -> Floats:
    with quiet():
        return np.where(d == 0, np.float32(0), np.float32(1) / d)
