"""The formats whose levels follow from the largest magnitude alone (MXFP4, TQ1_0, TQ2_0), in numpy operations.

Equal to ggml's ``quantize_row_mxfp4_ref`` and its siblings, byte for byte.
"""

from __future__ import annotations

import numpy as np

from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Bytes, Floats, Integers, half_bytes, quiet
from quantkit.kernels.mxfp4 import FIRST, early_steps

# Middles between 0, 1, 2, 3, 4, 6, 8 and 12.
_MIDDLES = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], dtype=np.float32)


def encode_small(kind: GGMLType, rows: Floats) -> Bytes:
    """Encode rows.

    Args:
        kind: MXFP4, TQ1_0 or TQ2_0.
        rows: float32, columns a multiple of the type's block.

    Returns:
        uint8, shape [blocks, bytes per block].
    """
    x = rows.reshape(-1, kind.block)
    largest = np.abs(x).max(axis=1)
    if kind is GGMLType.MXFP4:
        return _encode_mxfp4(x, largest)
    with quiet():
        inverse = np.where(largest > 0, np.float32(1) / largest, np.float32(0))
    scaled = x * inverse[:, None]
    digits = (scaled >= 0.5).astype(np.int32) - (scaled <= -0.5) + 1
    if kind is GGMLType.TQ2_0:
        fours = digits.reshape(-1, 2, 4, 32) << np.arange(0, 8, 2)[:, None]
        return np.concatenate([fours.sum(axis=2).reshape(-1, 64).astype(np.uint8), half_bytes(largest)], axis=1)
    parts = [_fractions(digits[:, :160], 32), _fractions(digits[:, 160:240], 16), _fractions(digits[:, 240:], 4)]
    return np.concatenate([*parts, half_bytes(largest)], axis=1)


def _fractions(digits: Integers, apart: int) -> Bytes:
    """Ternary digits, so far apart, as fractions of 3**5 in 256ths, rounded up."""
    groups = digits.reshape(digits.shape[0], -1, apart)
    places = 3 ** np.arange(4, 4 - groups.shape[1], -1)
    numbers = (groups * places[:, None]).sum(axis=1)
    fractions: Bytes = ((numbers * 256 + 242) // 243).astype(np.uint8)
    return fractions


def _encode_mxfp4(x: Floats, largest: Floats) -> Bytes:
    """A power of two, and the nearest of eight multiples and their negatives, of two the smaller."""
    bits = largest.view(np.int32)
    following = (bits >> 23) - 126
    early = early_steps()[np.maximum(following - FIRST, 0)]
    exponents = np.where(0x800000 - (bits & 0x7FFFFF) <= early, following, following - 1) + 125
    exponents = np.where(largest > 0, exponents, 0)
    unit = np.where(largest > 0, np.ldexp(np.float32(1), exponents - 128), np.float32(1)).astype(np.float32)
    numbers = np.searchsorted(_MIDDLES, np.abs(x) / unit[:, None], side="left")
    signed = numbers + np.where((numbers > 0) & (x < 0), 8, 0)
    return np.concatenate([exponents[:, None], signed[:, :16] | signed[:, 16:] << 4], axis=1).astype(np.uint8)
