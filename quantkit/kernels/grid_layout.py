"""How the formats with a grid are stored, from codes, signs and steps to bytes.

The lanes and the reference share this module, and ``grids`` reads the points of a grid from what it packs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Bytes, Floats, half_bytes, nearest_int, quiet
from quantkit.kernels.formats import GRID_SHAPES, SUPER_BLOCK, GridFormat

Codes = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Parts:
    """What a number of super-blocks consist of.

    Attributes:
        unit: of the scales, a little-endian float16 as uint8 [n, 2].
        steps: the scale of each block is 2 * step + 1 units, uint8 [n, blocks]; in IQ1 there are other bits above.
        codes: of each group of weights, uint16 [n, groups].
        signs: a bit for each weight, set if it is below zero, uint8 [n, 32].
        empty: blocks that consist of zeros, bool [n, blocks]; their codes and signs are zero.
    """

    unit: Bytes
    steps: Bytes
    codes: Codes
    signs: Bytes
    empty: npt.NDArray[np.bool_]


def _pack_iq3_xxs(parts: Parts) -> Bytes:
    return np.concatenate([parts.unit, parts.codes.astype(np.uint8), _sign_words(parts).view(np.uint8)], axis=1)


def _pack_iq3_s(parts: Parts) -> Bytes:
    # ggml leaves no place for an empty block where it stores low bits and signs: the blocks after it move forward.
    order = np.argsort(parts.empty, axis=1, kind="stable")[:, :, None]
    low = np.take_along_axis(parts.codes.astype(np.uint8).reshape(-1, 8, 8), order, axis=1).reshape(-1, 64)
    signs = np.take_along_axis(parts.signs.reshape(-1, 8, 4), order, axis=1).reshape(-1, 32)
    return np.concatenate([parts.unit, low, _high_bits(parts, 1), signs, _nibbles(parts.steps)], axis=1)


def _pack_iq2_xxs(parts: Parts) -> Bytes:
    codes = parts.codes.astype(np.uint8).view("<u4")
    both = np.stack([codes, _sign_words(parts)], axis=2).reshape(-1, 16)
    return np.concatenate([parts.unit, both.view(np.uint8)], axis=1)


def _pack_iq2_xs(parts: Parts) -> Bytes:
    both = (parts.codes | parts.signs.astype(np.uint16) << 9).astype("<u2")
    return np.concatenate([parts.unit, both.view(np.uint8), _nibbles(parts.steps)], axis=1)


def _pack_iq2_s(parts: Parts) -> Bytes:
    low = parts.codes.astype(np.uint8)
    return np.concatenate([parts.unit, low, parts.signs, _high_bits(parts, 2), _nibbles(parts.steps)], axis=1)


def _pack_iq1_s(parts: Parts) -> Bytes:
    """Steps have three bits, and a fourth that says whether the levels are moved down rather than up."""
    high = (parts.codes >> 8).reshape(-1, 8, 4) << np.arange(0, 12, 3, dtype=np.uint16)
    words = np.bitwise_or.reduce(high, axis=2) | parts.steps.astype(np.uint16) << 12
    return np.concatenate([parts.unit, parts.codes.astype(np.uint8), words.astype("<u2").view(np.uint8)], axis=1)


def _pack_iq1_m(parts: Parts) -> Bytes:
    """Steps have three bits, and two that say whether the levels of the second half and of the first are moved down."""
    high, steps = (parts.codes >> 8).astype(np.uint8), parts.steps
    moved = (steps & np.uint8(8)) << np.uint8(4) | (steps & np.uint8(16)) >> np.uint8(1)
    three = (steps & np.uint8(7)).astype(np.uint16).reshape(-1, 4, 4) << np.arange(0, 12, 3, dtype=np.uint16)
    unit = np.ascontiguousarray(parts.unit).view("<u2") >> np.arange(0, 16, 4, dtype=np.uint16)
    words = (np.bitwise_or.reduce(three, axis=2) | unit << 12).astype("<u2")
    low, both = parts.codes.astype(np.uint8), high[:, ::2] | high[:, 1::2] << np.uint8(4) | moved
    return np.concatenate([low, both, words.view(np.uint8)], axis=1)


def _sign_words(parts: Parts) -> npt.NDArray[np.uint32]:
    """A word per 32 weights, "<u4" [n, 8]: seven bits of signs of each eight, whose number is even, and the step."""
    seven = (parts.signs & 127).astype(np.uint32).reshape(-1, 8, 4)
    words: npt.NDArray[np.uint32] = np.bitwise_or.reduce(seven << np.arange(0, 28, 7, dtype=np.uint32), axis=2)
    return (words | parts.steps.astype(np.uint32) << 28).astype("<u4")


def _high_bits(parts: Parts, bits: int) -> Bytes:
    """The bits of codes above the eighth, a byte for eight or four codes."""
    high = (parts.codes >> 8).astype(np.uint8).reshape(-1, 8, 8 // bits)
    joined: Bytes = np.bitwise_or.reduce(high << np.arange(0, 8, bits, dtype=np.uint8), axis=2)
    return joined


def _nibbles(steps: Bytes) -> Bytes:
    return steps[:, ::2] | steps[:, 1::2] << np.uint8(4)


PACKERS: dict[GGMLType, Callable[[Parts], Bytes]] = {
    GGMLType.IQ1_M: _pack_iq1_m,
    GGMLType.IQ1_S: _pack_iq1_s,
    GGMLType.IQ2_S: _pack_iq2_s,
    GGMLType.IQ2_XS: _pack_iq2_xs,
    GGMLType.IQ2_XXS: _pack_iq2_xxs,
    GGMLType.IQ3_S: _pack_iq3_s,
    GGMLType.IQ3_XXS: _pack_iq3_xxs,
}


def store_scales(form: GridFormat, scales: Floats) -> tuple[Bytes, Bytes]:
    """The unit, uint8 [n, 2], and the steps, uint8 [n, blocks], of scales from zero up, float32 [n, blocks]."""
    unit = scales.max(axis=1) / np.float32(31)
    with quiet():
        steps = nearest_int(np.float32(0.5) * (np.float32(1) / unit[:, None] * scales - np.float32(1)))
    steps = np.where(unit[:, None] != 0, np.clip(steps, 0, 15), 0)
    return half_bytes(unit * np.float32(form.factor)), steps.astype(np.uint8)


def store_split_scales(scales: Floats) -> tuple[Floats, Bytes]:
    """The unit, float32 [n], and the steps, uint8 [n, blocks], of scales from zero up, float32 [n, blocks]."""
    unit = np.abs(scales).max(axis=1) / np.float32(15)
    with quiet():
        steps = nearest_int(np.float32(0.5) * (np.float32(1) / unit[:, None] * scales - np.float32(1)))
    return unit, np.where(unit[:, None] != 0, np.clip(steps, 0, 7), 0).astype(np.uint8)


def only_codes(kind: GGMLType, codes: Codes) -> Parts:
    """Super-blocks of these codes, uint16 [n, groups], with the unit 1, steps of zero and no signs."""
    count, blocks = len(codes), SUPER_BLOCK // GRID_SHAPES[kind].block
    unit = np.full((count, 1), 1, dtype="<f2").view(np.uint8)
    steps, signs = np.zeros((count, blocks), dtype=np.uint8), np.zeros((count, SUPER_BLOCK // 8), dtype=np.uint8)
    return Parts(unit, steps, codes, signs, steps != 0)
