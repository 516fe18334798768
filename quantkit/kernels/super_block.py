"""How K-quants are stored: super-blocks of 256 weights, from the scales and levels of their sub-blocks to bytes.

The lanes and the reference share this module. Tensor operations on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import divide, first_largest, half_bytes, nearest_int, quotient
from quantkit.kernels.formats import NOTHING


@dataclass(frozen=True)
class Stored:
    """Scales and minima as a format stores them.

    Attributes:
        parts: their bytes, uint8 [super-blocks, ...] each.
        scales: their values when read back, float32 [sub-blocks].
        lows: the negated minima when read back, float32 [sub-blocks]; zero in a format without minima.
    """

    parts: tuple[torch.Tensor, ...]
    scales: torch.Tensor
    lows: torch.Tensor


@dataclass(frozen=True)
class Layout:
    """The bytes of a K-quant.

    Attributes:
        store: scales and negated minima, float32 [sub-blocks] each, to their stored form.
        pack: levels, uint8 [super-blocks, 256], and the stored parts to uint8 [super-blocks, bytes per super-block].
    """

    store: Callable[[torch.Tensor, torch.Tensor], Stored]
    pack: Callable[[torch.Tensor, tuple[torch.Tensor, ...]], torch.Tensor]


def _store_six_bits(scales: torch.Tensor, lows: torch.Tensor) -> Stored:
    """Q4_K and Q5_K: two units, then eight scales and eight minima of six bits each."""
    (d, s), (dmin, m) = _steps(scales.reshape(-1, 8), 63), _steps(lows.reshape(-1, 8), 63)
    s, m = ((step & 255).clamp(max=63) for step in (s, m))  # C truncates to a byte before it clamps
    packed = [s[:, :4] | (s[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6, (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4]
    parts = (half_bytes(d), half_bytes(dmin), *(part.to(torch.uint8) for part in packed))
    return Stored(parts, _times(d, s), _times(dmin, m))


def _store_four_bits(scales: torch.Tensor, lows: torch.Tensor) -> Stored:
    """Q2_K: sixteen scales and sixteen minima of four bits each, and two units."""
    (d, s), (dmin, m) = _steps(scales.reshape(-1, 16), 15), _steps(lows.reshape(-1, 16), 15)
    both = (s | m << 4) & 255  # a byte in C
    parts = (both.to(torch.uint8), half_bytes(d), half_bytes(dmin))
    return Stored(parts, _times(d, both & 15), _times(dmin, both >> 4))


def _store_q6(scales: torch.Tensor, lows: torch.Tensor) -> Stored:
    """Q6_K: sixteen signed bytes and their unit."""
    scales = scales.reshape(-1, 16)
    largest = first_largest(scales)
    nothing = largest.abs() < NOTHING
    inverse = divide(-128, largest)
    d = divide(1, inverse).masked_fill(nothing, 0)
    steps = nearest_int(inverse[:, None] * scales).clamp(max=127).masked_fill(nothing[:, None], 0).to(torch.int8)
    return Stored((steps.view(torch.uint8), half_bytes(d)), _times(d, steps), lows)


def _store_q3(scales: torch.Tensor, lows: torch.Tensor) -> Stored:
    """Q3_K: sixteen signed scales of six bits and their unit."""
    scales = scales.reshape(-1, 16)
    largest = first_largest(scales)
    nothing = largest == 0
    inverse = divide(-32, largest)
    d = divide(1, inverse).masked_fill(nothing, 0)
    steps = nearest_int(inverse[:, None] * scales).to(torch.int8).to(torch.int32)  # wraps as in C
    s = (steps.clamp(-32, 31) + 32).masked_fill(nothing[:, None], 0)
    high = (s >> 4).reshape(-1, 4, 4)
    high = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    parts = ((s[:, :8] & 15 | (s[:, 8:] & 15) << 4).to(torch.uint8), high.to(torch.uint8), half_bytes(d))
    return Stored(parts, _times(d, s - 32), lows)


def _steps(values: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of each super-block as a float32 unit and integer multiples of it, 0..top."""
    largest = values.amax(1).clamp(min=0) + 0.0  # not -0
    inverse = torch.where(largest > 0, divide(top, largest), torch.zeros_like(largest))
    return quotient(largest, top), nearest_int(inverse[:, None] * values)


def _times(unit: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    return (unit.half().float()[:, None] * steps).reshape(-1)


def _pack_q2(levels: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    steps, d, dmin = parts
    return torch.cat([steps, _pairs(levels), d, dmin], dim=1)


def _pack_q3(levels: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([_bits(levels, 2), _pairs(levels), *parts], dim=1)


def _pack_q4(levels: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([*parts, _nibbles(levels, 32)], dim=1)


def _pack_q5(levels: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([*parts, _bits(levels, 4), _nibbles(levels, 32)], dim=1)


def _pack_q6(levels: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    steps, d = parts
    # ggml writes zeros for a super-block whose scales are all zero, whatever its levels.
    levels = levels * (steps != 0).any(1, keepdim=True)
    return torch.cat([_nibbles(levels, 64), _pairs(levels >> 4), steps, d], dim=1)


# Eight levels per word; bits that a shift would move into the next byte are masked off first.


def _nibbles(levels: torch.Tensor, apart: int) -> torch.Tensor:
    """The low four bits of levels, two per byte: levels *apart* weights apart share a byte."""
    words = (levels.view(torch.int64) & 0x0F0F0F0F0F0F0F0F).reshape(-1, 128 // apart, 2, apart // 8)
    return (words[:, :, 0] | words[:, :, 1] << 4).reshape(-1, 16).view(torch.uint8)


def _pairs(levels: torch.Tensor) -> torch.Tensor:
    """The low two bits of levels, four per byte: levels 32 weights apart share a byte."""
    words = (levels.view(torch.int64) & 0x0303030303030303).reshape(-1, 2, 4, 4)
    packed = words[:, :, 0] | words[:, :, 1] << 2 | words[:, :, 2] << 4 | words[:, :, 3] << 6
    return packed.reshape(-1, 8).view(torch.uint8)


def _bits(levels: torch.Tensor, bit: int) -> torch.Tensor:
    """One bit of each level, eight per byte: levels 32 weights apart share a byte."""
    words = (levels.view(torch.int64) >> bit & 0x0101010101010101).reshape(-1, 8, 4)
    packed = words[:, 0]
    for i in range(1, 8):
        packed = packed | words[:, i] << i
    return packed.view(torch.uint8)


LAYOUTS = {
    GGMLType.Q2_K: Layout(_store_four_bits, _pack_q2),
    GGMLType.Q3_K: Layout(_store_q3, _pack_q3),
    GGMLType.Q4_K: Layout(_store_six_bits, _pack_q4),
    GGMLType.Q5_K: Layout(_store_six_bits, _pack_q5),
    GGMLType.Q6_K: Layout(_store_q6, _pack_q6),
}
