"""What each encoder gives, in tensor operations that read like the formats: exact, on any device, and not fast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from quantkit.ggml.types import GGMLType
from quantkit.kernels import affine, blocks, super_block, symmetric

_AFFINE = {GGMLType.Q2_K: affine.Q2_K, GGMLType.Q4_K: affine.Q4_K, GGMLType.Q5_K: affine.Q5_K}
_SYMMETRIC = {GGMLType.Q3_K: symmetric.search_3, GGMLType.Q6_K: symmetric.search_6}
_BLOCKS: dict[GGMLType, Callable[[torch.Tensor], torch.Tensor]] = {
    GGMLType.Q4_0: partial(blocks.encode_symmetric, bits=4),
    GGMLType.Q4_1: partial(blocks.encode_affine, bits=4),
    GGMLType.Q5_0: partial(blocks.encode_symmetric, bits=5),
    GGMLType.Q5_1: partial(blocks.encode_affine, bits=5),
    GGMLType.Q8_0: blocks.encode_q8_0,
}
SUPPORTED = frozenset([*_AFFINE, *_SYMMETRIC, *_BLOCKS])


def encode(kind: GGMLType, rows: torch.Tensor) -> torch.Tensor:
    """Encode rows as ggml's reference does.

    Args:
        kind: one of :data:`SUPPORTED`.
        rows: float32, columns a multiple of the type's block; values that ``arithmetic.decided`` accepts.

    Returns:
        uint8, shape [blocks, bytes of a block], on the device of the rows.
    """
    if kind in _BLOCKS:
        return _BLOCKS[kind](rows)
    form = super_block.FORMATS[kind]
    x = rows.reshape(-1, form.block)
    if kind in _AFFINE:
        scales, lows, levels = affine.search(x, _AFFINE[kind])
    else:
        scales, levels = _SYMMETRIC[kind](x)
        lows = torch.zeros_like(scales)
    stored = form.store(scales, lows)
    return form.pack(super_block.fit_levels(rows, form, stored, levels), stored.parts)
