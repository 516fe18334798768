"""What the compiled searches share: how they are compiled, C's arithmetic for scalars, and how they fit levels.

Numba compiles a function when it is first called, for the processor it runs on, and keeps the result in the user's
cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from quantkit.kernels.cache import cache_folder

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
# (rows, x, work, scales, lows), see lane_affine.
Search = Callable[[Floats, Floats, Floats, Floats, Floats], None]
# (rows, scales, lows, levels), see _fit.
Fit = Callable[[Floats, Floats, Floats, Bytes], None]

LANES = 128
# Floats of the two arrays that a search works in.
X, WORK = 32 * LANES, (14 + 32) * LANES

ZERO, ONE, TENTH = np.float32(0), np.float32(1), np.float32(0.1)
_SHIFT = np.float32(12582912.0)  # adding it leaves no room for a fraction: halves to even

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Number = TypeVar("_Number", np.float32, np.int32)
# No fastmath: sums keep their order, products are rounded before they are added.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": False, "nogil": True}


def inlined(function: _Function) -> _Function:
    """*function* for use in compiled ones."""
    result: _Function = numba.njit(forceinline=True, **_OPTIONS)(function)
    return result


def compiled(function: _Function) -> _Function:
    """*function*, compiled at its first call, and not again in a later process if the cache can be written."""
    folder, before = cache_folder("numba"), numba.config.CACHE_DIR
    numba.config.CACHE_DIR = before or str(folder)  # read here and now; the functions of others keep their place
    try:
        result: _Function = numba.njit(cache=bool(before) or _writable(folder), **_OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before
    return result


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def offsets(count: int) -> Iterator[int]:
    """Where *count* quantities of a work array begin."""
    return iter(range(0, count * LANES, LANES))


@inlined
def clamp(value: _Number, low: _Number, high: _Number) -> _Number:
    """Within the limits; NaN becomes the lower one."""
    value = value if value > low else low
    return value if value < high else high


@inlined
def nearest(value: np.float32) -> np.float32:
    """Halves to even, for magnitudes below 2**22.

    In a search there are no others: a line that fits better has its minimum at or below the mean, so that what divides
    by the range from there is never far out of the levels. Only a scale as it is stored can be too small for its block.
    """
    return (value + _SHIFT) - _SHIFT


@inlined
def nearest_int(value: np.float32) -> np.int32:
    """ggml's, with what its bits become where the value is too large."""
    return np.int32(np.int32(np.float32(value + _SHIFT).view(np.int32) & np.int32(0x7FFFFF)) - np.int32(0x400000))


@inlined
def gather(rows: Floats, base: int, block: int, x: Floats) -> None:
    """Sub-blocks side by side."""
    for j in range(LANES):
        for i in range(block):
            x[i * LANES + j] = rows[base + j * block + i]


@compiled
def count_outside(values: Floats, smallest: np.float32, largest: np.float32) -> int:
    """How many values are neither zero nor of a magnitude between the two."""
    count = 0
    for i in range(values.size):
        size = abs(values[i])
        count += not (((size >= smallest) & (size <= largest)) | (size == ZERO))
    return count


def _fit(block: int, least: int, top: int, base: int) -> Fit:
    """Levels for scales and minima as they are stored.

    Args:
        block: weights in a sub-block.
        least: the lowest level.
        top: the highest.
        base: added to make levels non-negative.

    Returns:
        A function of rows, a scale and a minimum for each sub-block, and the levels it writes, one for each weight.
        Where the scale is zero it writes something.
    """
    least_, top_, base_ = np.int32(least), np.int32(top), np.int32(base)

    def fit(rows: Floats, scales: Floats, lows: Floats, levels: Bytes) -> None:
        for k in range(rows.size // 32):
            # A loop of 16 would be taken apart before it can become vector instructions.
            first, second = 32 * k // block, (32 * k + 16) // block
            scale1, scale2, low1, low2 = scales[first], scales[second], lows[first], lows[second]
            for i in range(32):
                scale, low = scale1 if i < 16 else scale2, low1 if i < 16 else low2
                level = clamp(nearest_int((rows[32 * k + i] + low) / scale), least_, top_)
                levels[32 * k + i] = np.uint8(np.int32(level + base_))

    return compiled(fit)


fit_q2 = _fit(16, 0, 3, 0)
fit_q3 = _fit(16, -4, 3, 4)
fit_q4 = _fit(32, 0, 15, 0)
fit_q5 = _fit(32, 0, 31, 0)
fit_q6 = _fit(16, -32, 31, 32)
