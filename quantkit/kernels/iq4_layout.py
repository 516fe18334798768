"""How IQ4_NL and IQ4_XS are stored, from the scales and levels of blocks of 32 weights to bytes.

The lanes and the reference share this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantkit.kernels.arithmetic import Bytes, Floats, half_bytes, nearest_int, quiet
from quantkit.kernels.formats import TableFormat

# Weights with a scale of their own.
BLOCK = 32


@dataclass(frozen=True)
class Stored:
    """Scales as a format stores them.

    Attributes:
        parts: their bytes, uint8 [blocks of the type, ...] each.
        inverses: what the weights are multiplied by to find their levels, float32 [blocks of 32].
    """

    parts: tuple[Bytes, ...]
    inverses: Floats


def store(form: TableFormat, scales: Floats) -> Stored:
    """Store scales, float32 [blocks of 32]."""
    if form.together == 1:
        return Stored((half_bytes(scales),), _inverse(scales))
    places = np.ascontiguousarray(scales.reshape(-1, form.together).T)  # a row per place in a block of the type
    largest = np.zeros_like(places[0])
    for scale in places:
        largest = np.where(np.abs(scale) > np.abs(largest), scale, largest)
    unit = -largest / np.float32(32)
    with quiet():
        steps = np.clip(nearest_int(_inverse(unit) * places), -32, 31)
        # The levels are those of the unit before it is rounded to float16.
        inverses = _inverse((unit * steps.astype(np.float32)).T.reshape(-1))
    stored = steps + 32
    high = stored[0] >> 4
    for i in range(1, form.together):
        high |= stored[i] >> 4 << 2 * i
    low = (stored[::2] & 15 | (stored[1::2] & 15) << 4).T
    return Stored((half_bytes(unit), high.astype("<u2")[:, None].view(np.uint8), low.astype(np.uint8)), inverses)


def pack(form: TableFormat, stored: Stored, pairs: Bytes) -> Bytes:
    """Put a format's bytes together.

    Args:
        form: the format.
        stored: the scales.
        pairs: two levels per byte, 16 weights apart, uint8 [blocks of 32, 16].

    Returns:
        uint8, shape [blocks of the type, bytes per block].
    """
    return np.concatenate([*stored.parts, pairs.reshape(-1, form.together * BLOCK // 2)], axis=1)


def _inverse(values: Floats) -> Floats:
    with quiet():
        return np.where(values != 0, np.float32(1) / values, np.float32(0))
