"""C's float32 arithmetic in numpy operations. Each rounds once, as C's does; dividing by zero is silent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

_SHIFT = np.float32(12582912.0)  # 1.5 * 2**23: adding it leaves no room for a fraction


def quiet() -> np.errstate:
    """Compute with infinities and NaN as C does, without warnings."""
    return np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")


def nearest_int(values: Floats) -> Integers:
    """ggml's ``nearest_int``, int32: rounds halves to even, and wraps as ggml does where the magnitude is too large."""
    shifted: Integers = (values + _SHIFT).view(np.int32)
    shifted &= 0x007FFFFF
    shifted -= 0x00400000
    return shifted


def first_largest(blocks: Floats) -> Floats:
    """Find the first value of the largest magnitude in each block, with its sign; +0 for a block of zeros.

    Args:
        blocks: float32, shape [n, block].

    Returns:
        float32, shape [n].
    """
    high, low = blocks.max(axis=1), blocks.min(axis=1)
    largest: Floats = np.where(high > -low, high, low)
    tied = np.flatnonzero(high == -low)  # also all zeros, of either sign
    if tied.size:
        some = blocks[tied]
        first = (np.abs(some) == high[tied, None]).argmax(axis=1)
        largest[tied] = some[np.arange(tied.size), first] + np.float32(0)  # +0 for -0
    return largest


def half_bytes(values: Floats) -> Bytes:
    """Convert float32 [n] to little-endian float16, as uint8 [n, 2]."""
    with quiet():
        return values.astype("<f2")[:, None].view(np.uint8)
