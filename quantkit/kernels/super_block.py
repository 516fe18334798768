"""How K-quants are stored: super-blocks of 256 weights, from the scales and levels of their sub-blocks to bytes.

The levels of formats with blocks of 32 are packed here too. The lanes and the reference share this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Bytes, Floats, Integers, first_largest, half_bytes, nearest_int, quiet
from quantkit.kernels.formats import NOTHING


@dataclass(frozen=True)
class Stored:
    """Scales and minima as a format stores them.

    Attributes:
        parts: their bytes, uint8 [super-blocks, ...] each.
        scales: their values when read back, float32 [sub-blocks].
        lows: the negated minima when read back, float32 [sub-blocks]; zero in a format without minima.
    """

    parts: tuple[Bytes, ...]
    scales: Floats
    lows: Floats


@dataclass(frozen=True)
class Layout:
    """The bytes of a K-quant.

    Attributes:
        store: scales and negated minima, float32 [sub-blocks] each, to their stored form.
        pack: levels, uint8 [super-blocks, 256], and the stored parts to uint8 [super-blocks, bytes per super-block].
    """

    store: Callable[[Floats, Floats], Stored]
    pack: Callable[[Bytes, tuple[Bytes, ...]], Bytes]


def _store_six_bits(scales: Floats, lows: Floats) -> Stored:
    """Q4_K and Q5_K: two units, then eight scales and eight minima of six bits each."""
    fitted = [_steps(values.reshape(-1, 8), 63) for values in (scales, lows)]
    # C truncates to a byte before it clamps.
    return _join_six_bits([(unit, np.minimum(step & 255, 63)) for unit, step in fitted])


def _join_six_bits(fitted: Sequence[tuple[Floats, Integers]]) -> Stored:
    """Multiples are bytes; what is above 63 in the first four changes the high bits of the last four, as in C."""
    (d, s), (dmin, m) = fitted
    packed = [s[:, :4] | (s[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6, (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4]
    parts = (half_bytes(d), half_bytes(dmin), *((part & 255).astype(np.uint8) for part in packed))
    return Stored(parts, _times(d, _read_six_bits(s)), _times(dmin, _read_six_bits(m)))


def _read_six_bits(steps: Integers) -> Integers:
    first, last = steps[:, :4], steps[:, 4:]
    return np.concatenate([first & 63, (last & 15) | ((first >> 6 | last >> 4) & 3) << 4], axis=1)


def _store_four_bits(scales: Floats, lows: Floats) -> Stored:
    """Q2_K: sixteen scales and sixteen minima of four bits each, and two units."""
    return _join_four_bits([_steps(values.reshape(-1, 16), 15) for values in (scales, lows)])


def _join_four_bits(fitted: Sequence[tuple[Floats, Integers]]) -> Stored:
    (d, s), (dmin, m) = fitted
    both = (s | m << 4) & 255  # a byte in C
    parts = (both.astype(np.uint8), half_bytes(d), half_bytes(dmin))
    return Stored(parts, _times(d, both & 15), _times(dmin, both >> 4))


def _store_q6(scales: Floats, lows: Floats) -> Stored:
    """Q6_K: sixteen signed bytes and their unit."""
    scales = scales.reshape(-1, 16)
    largest = first_largest(scales)
    nothing = np.abs(largest) < np.float32(NOTHING)
    with quiet():
        inverse = np.float32(-128) / largest
        d = np.where(nothing, np.float32(0), np.float32(1) / inverse)
        steps = np.minimum(nearest_int(inverse[:, None] * scales), 127)
    steps[nothing] = 0
    signed = steps.astype(np.int8)
    return Stored((signed.view(np.uint8), half_bytes(d)), _times(d, signed), lows)


def _store_q3(scales: Floats, lows: Floats) -> Stored:
    """Q3_K: sixteen signed scales of six bits and their unit."""
    scales = scales.reshape(-1, 16)
    largest = first_largest(scales)
    nothing = largest == 0
    with quiet():
        inverse = np.float32(-32) / largest
        d = np.where(nothing, np.float32(0), np.float32(1) / inverse)
        steps = nearest_int(inverse[:, None] * scales).astype(np.int8).astype(np.int32)  # wraps as in C
    s = np.clip(steps, -32, 31) + 32
    s[nothing] = 0
    return _join_q3([(d, s)])


def _join_q3(fitted: Sequence[tuple[Floats, Integers]]) -> Stored:
    """Multiples are 32 more than they stand for: 0..63."""
    ((d, s),) = fitted
    high = (s >> 4).reshape(-1, 4, 4)
    high = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    parts = ((s[:, :8] & 15 | (s[:, 8:] & 15) << 4).astype(np.uint8), high.astype(np.uint8), half_bytes(d))
    return Stored(parts, _times(d, s - 32), np.zeros(s.size, dtype=np.float32))


def _steps(values: Floats, top: int) -> tuple[Floats, Integers]:
    """Values of each super-block as a float32 unit and integer multiples of it, 0..top."""
    largest = np.maximum(values.max(axis=1), np.float32(0)) + np.float32(0)  # not -0
    with quiet():
        inverse = np.where(largest > 0, np.float32(top) / largest, np.float32(0))
    return largest / np.float32(top), nearest_int(inverse[:, None] * values)


def _times(unit: Floats, steps: npt.NDArray[np.signedinteger]) -> Floats:
    with quiet():
        stored = unit.astype(np.float16).astype(np.float32)
    return (stored[:, None] * steps.astype(np.float32)).reshape(-1)


def _pack_q2(levels: Bytes, parts: tuple[Bytes, ...]) -> Bytes:
    steps, d, dmin = parts
    return np.concatenate([steps, _pairs(levels), d, dmin], axis=1)


def _pack_q3(levels: Bytes, parts: tuple[Bytes, ...]) -> Bytes:
    return np.concatenate([_bits(levels, 2), _pairs(levels), *parts], axis=1)


def _pack_q4(levels: Bytes, parts: tuple[Bytes, ...]) -> Bytes:
    return np.concatenate([*parts, _nibbles(levels, 32)], axis=1)


def _pack_q5(levels: Bytes, parts: tuple[Bytes, ...]) -> Bytes:
    return np.concatenate([*parts, _bits(levels, 4), _nibbles(levels, 32)], axis=1)


def _pack_q6(levels: Bytes, parts: tuple[Bytes, ...]) -> Bytes:
    steps, d = parts
    # ggml writes zeros for a super-block whose scales are all zero, whatever its levels.
    levels = np.where((steps != 0).any(axis=1, keepdims=True), levels, np.uint8(0))
    return np.concatenate([_nibbles(levels, 64), _pairs((levels >> 4).astype(np.uint8)), steps, d], axis=1)


# Eight levels per word; bits that a shift would move into the next byte are masked off first.


def _nibbles(levels: Bytes, apart: int) -> Bytes:
    """The low four bits of levels, two per byte: levels *apart* weights apart share a byte."""
    words = (levels.view(np.int64) & 0x0F0F0F0F0F0F0F0F).reshape(-1, 128 // apart, 2, apart // 8)
    return (words[:, :, 0] | words[:, :, 1] << 4).reshape(-1, 16).view(np.uint8)


def _pairs(levels: Bytes) -> Bytes:
    """The low two bits of levels, four per byte: levels 32 weights apart share a byte."""
    words = (levels.view(np.int64) & 0x0303030303030303).reshape(-1, 2, 4, 4)
    packed = words[:, :, 0] | words[:, :, 1] << 2 | words[:, :, 2] << 4 | words[:, :, 3] << 6
    return packed.reshape(-1, 8).view(np.uint8)


def _bits(levels: Bytes, bit: int) -> Bytes:
    """One bit of each level, eight per byte: levels 32 weights apart share a byte."""
    words = (levels.view(np.int64) >> bit & 0x0101010101010101).reshape(-1, 8, 4)
    packed = words[:, 0]
    for i in range(1, 8):
        packed = packed | words[:, i] << i
    return packed.view(np.uint8)


LAYOUTS = {
    GGMLType.Q2_K: Layout(_store_four_bits, _pack_q2),
    GGMLType.Q3_K: Layout(_store_q3, _pack_q3),
    GGMLType.Q4_K: Layout(_store_six_bits, _pack_q4),
    GGMLType.Q5_K: Layout(_store_six_bits, _pack_q5),
    GGMLType.Q6_K: Layout(_store_q6, _pack_q6),
}
# For the formats that fit scales and minima to units with importances: units, float32 [super-blocks], and multiples of
# them, int32 [super-blocks, sub-blocks], of the scales and then of the minima, to their stored form.
JOINS: dict[GGMLType, Callable[[Sequence[tuple[Floats, Integers]]], Stored]] = {
    GGMLType.Q2_K: _join_four_bits,
    GGMLType.Q3_K: _join_q3,
    GGMLType.Q4_K: _join_six_bits,
    GGMLType.Q5_K: _join_six_bits,
}


def pack_levels(levels: Bytes, bits: int) -> Bytes:
    """The levels of blocks of 32, uint8 [blocks, 32] and below 2**bits, to bytes.

    All fifth bits of a block are a 32-bit word; then come the low four bits: levels 16 apart share a byte.
    """
    words = levels.view(np.uint64)
    low = words & 0x0F0F0F0F0F0F0F0F
    nibbles = (low[:, :2] | low[:, 2:] << 4).view(np.uint8)
    if bits == 4:
        return nibbles
    # The product gathers the lowest bit of each of eight bytes in the top byte.
    fifth = ((words >> 4 & 0x0101010101010101) * 0x0102040810204080 >> 56).astype(np.uint8)
    return np.concatenate([fifth, nibbles], axis=1)
