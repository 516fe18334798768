"""What the compiled encoders share: how numba compiles them, and C's arithmetic on scalars.

Numba compiles a function at its first call, for the processor it runs on, and ``lane_cache`` keeps the result.
Constants reach a compiled function through its closure: the cache compares those, but not globals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from quantkit.kernels.lane_cache import keep_on_disk, name_by_content

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
# (rows, x, work, scales, lows), see lane_affine.
Search = Callable[[Floats, Floats, Floats, Floats, Floats], None]

LANES = 128
# Sizes of the two work arrays of a search, in floats.
X, WORK = 32 * LANES, (14 + 32) * LANES

ZERO, ONE, TENTH = np.float32(0), np.float32(1), np.float32(0.1)
_SHIFT = np.float32(12582912.0)  # adding it leaves no room for a fraction: halves to even

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Number = TypeVar("_Number", np.float32, np.int32)
# No fastmath: sums keep their order, products are rounded before they are added.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": False, "nogil": True}


def inlined(function: _Function) -> _Function:
    """Compile *function* for use inside compiled functions."""
    name_by_content(function)
    result: _Function = numba.njit(forceinline=True, **_OPTIONS)(function)
    return result


def compiled(function: _Function) -> _Function:
    """Compile *function* at its first call; a later process loads the result if the cache is writable."""
    name_by_content(function)
    result: _Function = numba.njit(**_OPTIONS)(function)
    keep_on_disk(result)
    return result


def offsets(count: int) -> Iterator[int]:
    """The offsets of *count* quantities in a work array, LANES floats each."""
    return iter(range(0, count * LANES, LANES))


@inlined
def clamp(value: _Number, low: _Number, high: _Number) -> _Number:
    """Limit a value to low..high; NaN becomes *low*."""
    value = value if value > low else low
    return value if value < high else high


@inlined
def nearest(value: np.float32) -> np.float32:
    """Round halves to even, for magnitudes below 2**22.

    A search meets no others: the minimum of a better fit is at or below the mean, so values divided by the range above
    it stay close to the levels. Only a stored scale can be too small for its block.
    """
    return (value + _SHIFT) - _SHIFT


@inlined
def nearest_int(value: np.float32) -> np.int32:
    """ggml's ``nearest_int``: rounds halves to even, and wraps as ggml does where the magnitude is too large."""
    return np.int32(np.int32(np.float32(value + _SHIFT).view(np.int32) & np.int32(0x7FFFFF)) - np.int32(0x400000))


@inlined
def gather(rows: Floats, base: int, block: int, x: Floats) -> None:
    """Transpose LANES sub-blocks of *rows*, from offset *base*, into *x*: weight i of lane j at i * LANES + j."""
    for j in range(LANES):
        for i in range(block):
            x[i * LANES + j] = rows[base + j * block + i]


def _root(context: Any, value: Any) -> Any:
    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [arguments[0].type]), arguments)

    return value(value), generate


# The square root. Numba's own calls C for values below zero, which LLVM cannot vectorize.
root: Callable[[np.float32], np.float32] = intrinsic(_root)


@compiled
def count_outside(values: Floats, smallest: np.float32, largest: np.float32) -> int:
    """Count the values that are not zero and whose magnitude is not in smallest..largest."""
    count = 0
    for i in range(values.size):
        size = abs(values[i])
        count += not (((size >= smallest) & (size <= largest)) | (size == ZERO))
    return count
