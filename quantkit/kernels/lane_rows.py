"""Merge and round, compiled by numba: one pass over rows while they are in the cache.

A block of columns is widened to float32, every product of the low-rank factors is added in the order of the rank, and
the sum is rounded. The bits are those of :mod:`quantkit.kernels.low_rank` and :mod:`quantkit.kernels.rounding`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.kernels.lane_common import Floats, compiled, inlined

# (stored bits, left, right, the rounded rows as float32, and as bits, scratch) -> bits of the largest magnitude
Carry = Callable[[npt.NDArray[Any], Floats, Floats, Floats, npt.NDArray[Any], Floats], np.int32]

# Columns summed up at a time: with them, four rows of the right factor stay in the first cache.
BLOCK = 512

_MAGNITUDE, _SIGN = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
# Of float16 in float32's places: infinity, and the power of two between the exponents' biases.
_INFINITE, _SCALE = np.int32(0x0F800000), np.float32(2.0**112)
_EXPONENT = np.int32(0x7F800000)
# Bits of float32: float16's smallest normal number, the difference of the two exponent biases, 0.5.
_NORMAL, _BIASES, _HALF, _HALF_BITS = np.int32(0x38800000), np.int32(0x38000000), np.float32(0.5), np.int32(0x3F000000)


@inlined
def _from_half(bits: np.int32) -> np.float32:
    size = np.int32((bits & np.int32(0x7FFF)) << np.int32(13))
    scaled = np.int32(np.float32(np.int32(size).view(np.float32) * _SCALE).view(np.int32))
    word = np.int32(size | _EXPONENT) if size >= _INFINITE else scaled
    return np.int32(word | np.int32((bits & np.int32(0x8000)) << np.int32(16))).view(np.float32)


@inlined
def _to_half(value: np.float32) -> np.int32:
    """For magnitudes that do not round to infinity."""
    word = np.float32(value).view(np.int32)
    size = np.int32(word & _MAGNITUDE)
    odd = np.int32((size >> np.int32(13)) & np.int32(1))
    normal = np.int32((size - _BIASES + np.int32(0xFFF) + odd) >> np.int32(13))
    # floats from 0.5 up have the spacing of float16's subnormals
    subnormal = np.int32(np.float32(abs(value) + _HALF).view(np.int32) - _HALF_BITS)
    bits = normal if size >= _NORMAL else subnormal
    return np.int32(bits | np.int32((word >> np.int32(16)) & np.int32(0x8000)))


@inlined
def _from_bfloat(bits: np.int32) -> np.float32:
    return np.int32(bits << np.int32(16)).view(np.float32)


@inlined
def _to_bfloat(value: np.float32) -> np.int32:
    word = np.float32(value).view(np.int32)
    odd = np.int32((word >> np.int32(16)) & np.int32(1))
    return np.int32((np.int32(word + np.int32(0x7FFF) + odd) >> np.int32(16)) & np.int32(0xFFFF))


@inlined
def _same(value: np.float32) -> np.float32:
    return value


_READ: dict[GGMLType, Any] = {GGMLType.F16: _from_half, GGMLType.BF16: _from_bfloat, GGMLType.F32: _same}
_WRITE: dict[GGMLType, Any] = {GGMLType.F16: _to_half, GGMLType.BF16: _to_bfloat, GGMLType.F32: _same}


@cache
def carry(stored: GGMLType, outtype: GGMLType) -> Carry:
    """The compiled pass for one type of stored rows and one outtype: F32, F16 or BF16.

    Its arguments are the stored rows (uint16, or float32) [n, columns]; left, float32 [n, r], and right, float32
    [r, columns], of all products one after the other; two arrays [n, columns] that it fills, the rounded rows as
    float32 and in the outtype (uint16, or float32); and :data:`BLOCK` floats to work in. It returns the bits of the
    largest magnitude before rounding, those of NaN being larger than any other.
    """
    read, write, back = _READ[stored], _WRITE[outtype], _READ[outtype]
    integers = stored is not GGMLType.F32
    rounds = outtype is not GGMLType.F32

    def run(
        rows: npt.NDArray[Any], left: Floats, right: Floats, floats: Floats, bits: npt.NDArray[Any], x: Floats
    ) -> np.int32:
        largest = np.int32(0)
        for first in range(0, rows.shape[1], BLOCK):
            last = min(first + BLOCK, rows.shape[1])
            for i in range(rows.shape[0]):
                # Views, because numba would ask of every index whether it counts from the end.
                stored_row, float_row, bit_row = rows[i, first:last], floats[i, first:last], bits[i, first:last]
                sums = x[: last - first]
                for j in range(sums.size):
                    sums[j] = read(np.int32(stored_row[j]) if integers else stored_row[j])
                together = right.shape[0] // 4 * 4
                for k in range(0, together, 4):
                    a, b, c, d = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
                    row_a, row_b = right[k, first:last], right[k + 1, first:last]
                    row_c, row_d = right[k + 2, first:last], right[k + 3, first:last]
                    for j in range(sums.size):
                        sums[j] = (((sums[j] + a * row_a[j]) + b * row_b[j]) + c * row_c[j]) + d * row_d[j]
                for k in range(together, right.shape[0]):
                    factor, factors = left[i, k], right[k, first:last]
                    for j in range(sums.size):
                        sums[j] += factor * factors[j]
                for j in range(sums.size):
                    size = np.int32(np.float32(sums[j]).view(np.int32) & _MAGNITUDE)
                    largest = size if size > largest else largest
                for j in range(sums.size):
                    value = write(sums[j])
                    bit_row[j] = value
                    float_row[j] = back(value) if rounds else sums[j]
        return largest

    return compiled(run)
