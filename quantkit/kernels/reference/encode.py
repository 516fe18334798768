"""The specification of every encoder: exact, readable as the formats' definition, and slow.

It is the oracle that tests hold the lanes and the kernels to; it is in turn held to ggml, byte for byte. No other
module imports this package.
"""

from __future__ import annotations

import numpy as np

from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Bytes, Floats, Integers, nearest_int, quiet
from quantkit.kernels.formats import (
    BLOCK_FORMATS,
    GRID_FORMATS,
    K_QUANTS,
    SMALL_FORMATS,
    SPLIT_FORMATS,
    SUPER_BLOCK,
    TABLE_FORMATS,
    KQuant,
)
from quantkit.kernels.reference import affine, symmetric
from quantkit.kernels.reference.blocks import encode_blocks
from quantkit.kernels.reference.grid import encode_grid
from quantkit.kernels.reference.small import encode_small
from quantkit.kernels.reference.split import encode_split
from quantkit.kernels.reference.table import encode_table
from quantkit.kernels.searches import AffineSearch, MovingSearch
from quantkit.kernels.super_block import LAYOUTS, Stored


def encode(kind: GGMLType, rows: Floats, importance: Floats | None = None) -> Bytes:
    """Encode rows as ggml's reference does.

    Args:
        kind: one of :data:`quantkit.kernels.formats.FORMATS`.
        rows: float32, columns a multiple of the type's block; values between SMALLEST and LARGEST of
            :mod:`quantkit.kernels.rounding` in magnitude, or zero.
        importance: float32, shape [columns], for formats of :data:`quantkit.kernels.formats.TABLE_FORMATS`,
            :data:`quantkit.kernels.formats.GRID_FORMATS` and :data:`quantkit.kernels.formats.SPLIT_FORMATS`; or None.

    Returns:
        uint8, shape [blocks, bytes per block].
    """
    if kind in BLOCK_FORMATS:
        return encode_blocks(BLOCK_FORMATS[kind], rows)
    if kind in SMALL_FORMATS:
        return encode_small(kind, rows)
    if kind in TABLE_FORMATS:
        return encode_table(TABLE_FORMATS[kind], rows, importance)
    if kind in GRID_FORMATS:
        return encode_grid(GRID_FORMATS[kind], rows, importance)
    if kind in SPLIT_FORMATS:
        return encode_split(SPLIT_FORMATS[kind], rows, importance)
    form, layout = K_QUANTS[kind], LAYOUTS[kind]
    scales, lows, levels = _search(form, rows.reshape(-1, form.block))
    stored = layout.store(scales, lows)
    return layout.pack(_fit_levels(rows, form, stored, levels), stored.parts)


def _search(form: KQuant, x: Floats) -> tuple[Floats, Floats, Integers]:
    """Scales and negated minima, float32 [sub-blocks], and levels, int32 [sub-blocks, block]."""
    if isinstance(form.search, AffineSearch):
        return affine.search(x, form.top, form.search)
    if isinstance(form.search, MovingSearch):
        scales, levels = symmetric.moving_search(x, form.least, form.top, form.search)
    else:
        scales, levels = symmetric.trial_search(x, form.least, form.top, form.search)
    return scales, np.zeros_like(scales), levels


def _fit_levels(rows: Floats, form: KQuant, stored: Stored, searched: Integers) -> Bytes:
    """Fit levels to scales and minima as they are stored.

    Args:
        rows: float32, a multiple of 256 weights.
        form: the format.
        stored: the scales and minima.
        searched: the search's levels, int32 [sub-blocks, block]; they stay where a scale became zero.

    Returns:
        uint8, shape [super-blocks, 256].
    """
    x, scale = rows.reshape(-1, form.block), stored.scales[:, None]
    with quiet():
        fitted = np.clip(nearest_int((x + stored.lows[:, None]) / scale), form.least, form.top) - form.least
    return np.where(scale != 0, fitted, searched).astype(np.uint8).reshape(-1, SUPER_BLOCK)
