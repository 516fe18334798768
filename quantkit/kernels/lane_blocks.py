"""Q8_0 and Q4_0, compiled by numba: a vector holds weights of one block, and a range of rows is one call.

Tensor operations are as fast on one core. With many workers they are not: each is short, and between two of them a
worker needs Python's lock, for which all the others wait too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from quantkit.kernels.lane_common import ONE, ZERO, Bytes, Floats, compiled, inlined

Words = npt.NDArray[np.int32]
# (blocks, float32 [n, 32];  the same memory as int32;  what is written, uint8 [n, bytes of a block])
Encode = Callable[[Floats, Words, Bytes], None]

# Loops go over a block's width as the array has it: with a constant they would be unrolled, and then no longer become
# vector instructions.
_MAGNITUDE = np.int32(0x7FFFFFFF)
_HALF = np.float32(0.5)
# roundf() rounds halves away from zero, and so does truncating after the float just below one half was added. With one
# half itself 0.49999997 would become 1.
_BELOW_HALF = np.nextafter(_HALF, ZERO)
# Bits of float32: float16's smallest normal number, the distance of the two exponents' biases, one half.
_NORMAL, _BIASES, _HALF_BITS = np.int32(0x38800000), np.int32(0x38000000), np.int32(0x3F000000)


@inlined
def _largest(words: Words, block: int) -> np.int32:
    """The bits of a block's largest magnitude: magnitudes are ordered as their bits are."""
    largest = np.int32(0)
    for i in range(words.shape[1]):
        size = np.int32(words[block, i] & _MAGNITUDE)
        largest = size if size > largest else largest
    return largest


@inlined
def _store_scale(value: np.float32, out: Bytes, block: int) -> None:
    """A float16, little endian, halves to even; for magnitudes below 65520."""
    word = np.float32(value).view(np.int32)
    size = np.int32(word & _MAGNITUDE)
    if size >= _NORMAL:
        odd = np.int32((size >> np.int32(13)) & np.int32(1))
        bits = np.int32((size - _BIASES + np.int32(0xFFF) + odd) >> np.int32(13))
    else:  # numbers from one half up are as far apart as these float16
        bits = np.int32(np.float32(abs(value) + _HALF).view(np.int32) - _HALF_BITS)
    sign = np.int32((word >> np.int32(24)) & np.int32(0x80))
    out[block, 0] = np.uint8(bits & np.int32(0xFF))
    out[block, 1] = np.uint8(sign | (bits >> np.int32(8)))


@compiled
def encode_q8_0(rows: Floats, words: Words, out: Bytes) -> None:
    """``quantize_row_q8_0_ref``: ``d = amax / 127``, ``q = roundf(x * (1 / d))``."""
    for block in range(rows.shape[0]):
        d = np.float32(np.int32(_largest(words, block)).view(np.float32) / np.float32(127))
        inverse = ZERO if d == ZERO else np.float32(ONE / d)
        _store_scale(d, out, block)
        for i in range(rows.shape[1]):
            scaled = np.float32(rows[block, i] * inverse)
            away = np.float32(scaled + (-_BELOW_HALF if scaled < ZERO else _BELOW_HALF))
            out[block, 2 + i] = np.uint8(np.int8(np.int32(away)))


@compiled
def encode_q4_0(rows: Floats, words: Words, out: Bytes) -> None:
    """``quantize_row_q4_0_ref``: ``d = max / -8``, max being the first value of the largest magnitude, and
    ``q = min(15, int(x * (1 / d) + 8.5))``; weights 16 apart share a byte."""
    offset, top = np.float32(8.5), np.int32(15)
    for block in range(rows.shape[0]):
        largest, first = _largest(words, block), np.int32(rows.shape[1])
        for i in range(rows.shape[1]):
            same = np.int32(words[block, i] & _MAGNITUDE) == largest
            place = np.int32(i) if same else np.int32(rows.shape[1])
            first = place if place < first else first
        # Of zeros, of either sign, ggml's max is the +0 it began with.
        d = np.float32((ZERO if largest == 0 else rows[block, first]) / np.float32(-8))
        inverse = ZERO if d == ZERO else np.float32(ONE / d)
        _store_scale(d, out, block)
        middle = rows.shape[1] // 2
        for i in range(middle):
            low = np.int32(np.float32(np.float32(rows[block, i] * inverse) + offset))
            high = np.int32(np.float32(np.float32(rows[block, i + middle] * inverse) + offset))
            low, high = (low if low < top else top), (high if high < top else top)
            out[block, 2 + i] = np.uint8(np.int32(low | (high << np.int32(4))))
