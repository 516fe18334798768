"""MXFP4, TQ1_0 and TQ2_0, whose levels follow from the largest magnitude, compiled by numba: see ``lane_blocks``."""

from __future__ import annotations

import numpy as np

from quantkit.ggml.types import GGMLType
from quantkit.kernels.lane_blocks import Encode, Words, find_largest, store_scale
from quantkit.kernels.lane_common import ONE, ZERO, Bytes, Floats, compiled, inlined
from quantkit.kernels.mxfp4 import FIRST, early_steps

F32 = np.float32
_HALF = F32(0.5)
_MANTISSA = np.int32(0x7FFFFF)
_FIRST = FIRST


@inlined
def _number(v: F32, unit: F32) -> np.int32:
    """The number of the nearest of 0, 1, 2, 3, 4, 6, 8 and 12 units, of two the smaller, with the sign of *v*."""
    size = abs(v)
    number = np.int32(size > F32(0.5) * unit) + np.int32(size > F32(1.5) * unit) + np.int32(size > F32(2.5) * unit)
    number += np.int32(size > F32(3.5) * unit) + np.int32(size > F32(5) * unit)
    number += np.int32(size > F32(7) * unit) + np.int32(size > F32(10) * unit)
    return np.int32(number + (np.int32(8) if (v < ZERO) & (number > 0) else np.int32(0)))


@compiled
def _encode_mxfp4(rows: Floats, words: Words, early: Bytes, out: Bytes) -> None:
    middle = rows.shape[1] // 2
    for block in range(rows.shape[0]):
        largest = find_largest(words, block)
        following = np.int32((largest >> np.int32(23)) - np.int32(126))
        exponent = np.int32(0)
        if largest:
            below = np.int32(0x800000) - np.int32(largest & _MANTISSA)
            exponent = np.int32(following + (125 if below <= np.int32(early[following - _FIRST]) else 124))
        unit = np.int32((exponent - 1) << 23).view(np.float32) if exponent else ONE
        out[block, 0] = np.uint8(exponent)
        for i in range(middle):
            low, high = _number(rows[block, i], unit), _number(rows[block, i + middle], unit)
            out[block, 1 + i] = np.uint8(np.int32(low | high << np.int32(4)))


def encode_mxfp4(rows: Floats, words: Words, out: Bytes) -> None:
    """``quantize_row_mxfp4_ref``: a power of two, and the nearest of eight values and their negatives."""
    _encode_mxfp4(rows, words, early_steps(), out)


@inlined
def _digit(v: F32) -> np.int32:
    """``roundf(v) + 1`` of magnitudes below 1.5."""
    return np.int32(np.int32(v >= _HALF) - np.int32(v <= -_HALF) + np.int32(1))


@inlined
def _scale(words: Words, out: Bytes, block: int, at: int) -> F32:
    """Store the scale, the largest magnitude; return its inverse."""
    d = np.int32(find_largest(words, block)).view(np.float32)
    store_scale(d, out, block, at)
    return ZERO if d == ZERO else F32(ONE / d)


@inlined
def _fraction(digits: np.int32) -> np.uint8:
    """Five ternary digits as a fraction of 3**5 in 256ths, rounded up."""
    return np.uint8(np.int32((digits * np.int32(256) + np.int32(242)) // np.int32(243)))


@compiled
def encode_tq2_0(rows: Floats, words: Words, out: Bytes) -> None:
    """``quantize_row_tq2_0_ref``: four levels per byte, of weights 32 apart."""
    width = rows.shape[1] // 8
    for block in range(rows.shape[0]):
        inverse = _scale(words, out, block, 2 * width)
        for part in range(2):
            base = 4 * width * part
            for i in range(width):
                a, b = _digit(rows[block, base + i] * inverse), _digit(rows[block, base + width + i] * inverse)
                c = _digit(rows[block, base + 2 * width + i] * inverse)
                d = _digit(rows[block, base + 3 * width + i] * inverse)
                out[block, width * part + i] = np.uint8(np.int32(a | b << 2 | c << 4 | d << 6))


@compiled
def encode_tq1_0(rows: Floats, words: Words, out: Bytes) -> None:
    """``quantize_row_tq1_0_ref``: five levels per byte, of 160 weights 32 apart and 80 weights 16 apart; then four."""
    width = rows.shape[1] // 8
    for block in range(rows.shape[0]):
        inverse = _scale(words, out, block, rows.shape[1] // 5 + 1)
        base, to = 0, 0
        for part in range(2):
            apart = width >> part
            for i in range(apart):
                digits = np.int32(0)
                for n in range(5):
                    digits = np.int32(digits * 3 + _digit(rows[block, base + n * apart + i] * inverse))
                out[block, to + i] = _fraction(digits)
            base, to = base + 5 * apart, to + apart
        for i in range(4):
            digits = np.int32(0)
            for n in range(4):
                digits = np.int32(digits * 3 + _digit(rows[block, base + n * 4 + i] * inverse))
            out[block, to + i] = _fraction(np.int32(digits * 3))


ENCODERS: dict[GGMLType, Encode] = {
    GGMLType.MXFP4: encode_mxfp4,
    GGMLType.TQ1_0: encode_tq1_0,
    GGMLType.TQ2_0: encode_tq2_0,
}
