"""Rounding to the outtype, once, and the largest magnitude on the way there."""

from __future__ import annotations

import math

import numpy as np

from quantkit.checkpoint.dtypes import BF16, Array, Floats
from quantkit.ggml.types import GGMLType

# Between these magnitudes no step of any encoder overflows or divides by zero.
SMALLEST, LARGEST = 1e-25, 65504.0
# Up to this importance no weighted sum of such values becomes infinite.
_LARGEST_IMPORTANCE = 1e20

# The smallest magnitude that rounds to infinity.
OVERFLOW = {GGMLType.F16: 65520.0, GGMLType.BF16: float.fromhex("0x1.ffp127"), GGMLType.F32: math.inf}


def largest_magnitude(values: Floats) -> float:
    """The largest magnitude; NaN if any value is NaN, 0 for no values."""
    return float(max(values.max(), -values.min())) if values.size else 0.0


def decided(values: Floats) -> bool:
    """Whether arithmetic alone decides how these values are encoded.

    Outside the range the reciprocal of a scale may be infinite, and what C makes of the result differs between
    processors: leave such rows to libggml. Every float16 value is inside.
    """
    sizes = np.abs(values)
    return bool(((sizes >= np.float32(SMALLEST)) & (sizes <= np.float32(LARGEST)) | (sizes == 0)).all())


def weighable(importance: Floats) -> bool:
    """Whether arithmetic alone decides how values are encoded with these importances; none is below zero then."""
    return bool(((importance >= 0) & (importance <= np.float32(_LARGEST_IMPORTANCE))).all())


def round_to(values: Floats, outtype: GGMLType) -> Array:
    """Round to nearest even.

    Args:
        values: float32, all of a magnitude below ``OVERFLOW[outtype]``.
        outtype: F32, F16 or BF16.

    Returns:
        The same shape; float32 is returned as it is, without a copy.
    """
    if outtype is GGMLType.F32:
        return values
    if outtype is GGMLType.F16:
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    halves = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return halves.astype(np.uint16).view(BF16)
