"""Q8_0 and Q4_0, compiled by numba: a vector holds weights of one block, and one call encodes a range of rows.

Tensor operations are as fast on one core but not with many workers: each is short, and between two of them a worker
needs Python's lock, which all the others wait for too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.kernels.lane_common import ONE, ZERO, Bytes, Floats, compiled, inlined

Words = npt.NDArray[np.int32]
# (blocks, float32 [n, 32];  the same memory as int32;  the output, uint8 [n, bytes per block])
Encode = Callable[[Floats, Words, Bytes], None]

# Loops run to the array's own width: LLVM would unroll a constant one, and then not vectorize it.
_MAGNITUDE = np.int32(0x7FFFFFFF)
_HALF = np.float32(0.5)
# roundf() rounds halves away from zero, as does adding the float just below 0.5 and truncating. Adding 0.5 itself would
# turn 0.49999997 into 1.
_BELOW_HALF = np.nextafter(_HALF, ZERO)
# Bits of float32: float16's smallest normal number, the difference of the two exponent biases, 0.5.
_NORMAL, _BIASES, _HALF_BITS = np.int32(0x38800000), np.int32(0x38000000), np.int32(0x3F000000)


@inlined
def find_largest(words: Words, block: int) -> np.int32:
    """The bits of a block's largest magnitude: magnitudes and their bits have the same order."""
    largest = np.int32(0)
    for i in range(words.shape[1]):
        size = np.int32(words[block, i] & _MAGNITUDE)
        largest = size if size > largest else largest
    return largest


@inlined
def store_scale(value: np.float32, out: Bytes, block: int, at: int) -> None:
    """Write a float16, little endian, rounded half to even; for magnitudes below 65520."""
    word = np.float32(value).view(np.int32)
    size = np.int32(word & _MAGNITUDE)
    if size >= _NORMAL:
        odd = np.int32((size >> np.int32(13)) & np.int32(1))
        bits = np.int32((size - _BIASES + np.int32(0xFFF) + odd) >> np.int32(13))
    else:  # floats from 0.5 up have the spacing of float16's subnormals
        bits = np.int32(np.float32(abs(value) + _HALF).view(np.int32) - _HALF_BITS)
    sign = np.int32((word >> np.int32(24)) & np.int32(0x80))
    out[block, at] = np.uint8(bits & np.int32(0xFF))
    out[block, at + 1] = np.uint8(sign | (bits >> np.int32(8)))


@compiled
def encode_q8_0(rows: Floats, words: Words, out: Bytes) -> None:
    """``quantize_row_q8_0_ref``: ``d = amax / 127``, ``q = roundf(x * (1 / d))``."""
    for block in range(rows.shape[0]):
        d = np.float32(np.int32(find_largest(words, block)).view(np.float32) / np.float32(127))
        inverse = ZERO if d == ZERO else np.float32(ONE / d)
        store_scale(d, out, block, 0)
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
        largest, first = find_largest(words, block), np.int32(rows.shape[1])
        for i in range(rows.shape[1]):
            same = np.int32(words[block, i] & _MAGNITUDE) == largest
            place = np.int32(i) if same else np.int32(rows.shape[1])
            first = place if place < first else first
        # ggml's max of zeros of either sign is its initial +0.
        d = np.float32((ZERO if largest == 0 else rows[block, first]) / np.float32(-8))
        inverse = ZERO if d == ZERO else np.float32(ONE / d)
        store_scale(d, out, block, 0)
        middle = rows.shape[1] // 2
        for i in range(middle):
            low = np.int32(np.float32(np.float32(rows[block, i] * inverse) + offset))
            high = np.int32(np.float32(np.float32(rows[block, i + middle] * inverse) + offset))
            low, high = (low if low < top else top), (high if high < top else top)
            out[block, 2 + i] = np.uint8(np.int32(low | (high << np.int32(4))))


ENCODERS: dict[GGMLType, Encode] = {GGMLType.Q8_0: encode_q8_0, GGMLType.Q4_0: encode_q4_0}
