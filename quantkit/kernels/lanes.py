"""Compiled encoders for the processor: several times as fast as libggml, where numba (the extra ``fast``) is installed.

K-quants are searched by ``lane_affine`` and ``lane_symmetric``, stored and packed by ``super_block``, and fitted by
``lane_fit``. ``lane_blocks`` and ``lane_small`` have the formats without a search, ``lane_iq4`` those with a table,
``lane_grid`` and ``lane_ternary`` those with a grid, and ``weighted`` all others with an importance matrix.
"""

from __future__ import annotations

import importlib
import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Bytes, Floats
from quantkit.kernels.formats import GRID_FORMATS, K_QUANTS, SMALL_FORMATS, SPLIT_FORMATS, SUPER_BLOCK, TABLE_FORMATS
from quantkit.kernels.rounding import LARGEST, SMALLEST, weighable
from quantkit.kernels.super_block import LAYOUTS

if TYPE_CHECKING:
    from quantkit.kernels.lane_common import Search
    from quantkit.kernels.lane_fit import Fit


@cache
def available() -> bool:
    """Whether numba is installed, in a version that works with the other packages."""
    try:
        importlib.import_module("numba")
    except ImportError:
        return False
    return True


def encode(kind: GGMLType, rows: Floats, importance: Floats | None = None) -> Bytes | None:
    """Encode rows.

    Args:
        kind: one of :data:`quantkit.kernels.formats.IN_LANES`; with importances, of
            :data:`quantkit.kernels.formats.WEIGHTED`.
        rows: float32, contiguous, columns a multiple of the type's block.
        importance: float32, shape [columns], or None.

    Returns:
        uint8, shape [blocks, bytes per block]; None if arithmetic alone does not decide how the values are encoded, or,
        for IQ1, the C library's sort does.
    """
    flat = rows.reshape(-1)
    if not _decided(flat) or not (importance is None or weighable(importance)):
        return None
    if kind in TABLE_FORMATS:
        from quantkit.kernels import lane_iq4

        return lane_iq4.encode(TABLE_FORMATS[kind], rows, importance)
    if kind in GRID_FORMATS:
        from quantkit.kernels import lane_grid

        return lane_grid.encode(GRID_FORMATS[kind], rows, importance)
    if kind in SPLIT_FORMATS:
        if not ggml.sorts_stably():
            return None
        from quantkit.kernels import lane_ternary

        return lane_ternary.encode(SPLIT_FORMATS[kind], rows, importance)
    if importance is not None:
        from quantkit.kernels import weighted

        return weighted.encode(kind, rows, importance)
    blocks = flat.reshape(-1, kind.block)
    if kind in K_QUANTS:
        return _encode_super_blocks(kind, blocks)
    from quantkit.kernels import lane_blocks, lane_small

    out = np.empty((blocks.shape[0], kind.block_nbytes), dtype=np.uint8)
    encoders = lane_small.ENCODERS if kind in SMALL_FORMATS else lane_blocks.ENCODERS
    encoders[kind](blocks, blocks.view(np.int32), out)
    return out


def _encode_super_blocks(kind: GGMLType, rows: Floats) -> Bytes:
    """Encode super-blocks, float32 [n, 256]."""
    block, layout, (search, fit) = K_QUANTS[kind].block, LAYOUTS[kind], _compiled(kind)
    stored = layout.store(*_search(search, rows.reshape(-1), block))
    levels = np.empty(rows.size, dtype=np.uint8)
    fit(rows.reshape(-1), stored.scales, stored.lows, levels)
    # A sub-block whose stored scale is zero keeps the levels of its search: zeros for zeros, which are common.
    unscaled = np.flatnonzero(stored.scales == 0)
    levels.reshape(-1, block)[unscaled] = 0
    encoded = layout.pack(levels.reshape(-1, SUPER_BLOCK), stored.parts)
    # The others are rare, and libggml encodes their super-blocks.
    others = np.unique(unscaled[rows.reshape(-1, block)[unscaled].any(axis=1)] * block // SUPER_BLOCK)
    if others.size:
        encoded[others] = ggml.quantize_rows(kind, rows[others]).reshape(-1, kind.block_nbytes)
    return encoded


def _compiled(kind: GGMLType) -> tuple[Search, Fit]:
    # Importing numba takes half a second: not before it is needed.
    from quantkit.kernels import lane_affine, lane_fit, lane_symmetric

    searches = lane_affine.SEARCHES if kind in lane_affine.SEARCHES else lane_symmetric.SEARCHES
    return searches[kind], lane_fit.FITS[kind]


def _decided(flat: Floats) -> bool:
    """Whether arithmetic alone decides how these values are encoded, see :mod:`quantkit.kernels.rounding`."""
    from quantkit.kernels import lane_common

    outside: int = lane_common.count_outside(flat, np.float32(SMALLEST), np.float32(LARGEST))
    return outside == 0


class _Scratch(threading.local):
    """The work arrays of one thread's searches."""

    def __init__(self) -> None:
        from quantkit.kernels import lane_common

        self.lanes = lane_common.LANES
        self.x, self.work = np.zeros(lane_common.X, dtype=np.float32), np.zeros(lane_common.WORK, dtype=np.float32)


@cache
def _scratch() -> _Scratch:
    return _Scratch()


def _search(search: Search, flat: Floats, block: int) -> tuple[Floats, Floats]:
    """Find scales and negated minima, float32 [sub-blocks]; zeros pad the last group of lanes."""
    scratch = _scratch()
    group = scratch.lanes * block
    whole = flat.size // group * group
    scales, lows = (np.empty(-(-flat.size // group) * scratch.lanes, dtype=np.float32) for _ in range(2))
    search(flat[:whole], scratch.x, scratch.work, scales, lows)
    if whole < flat.size:
        rest = np.zeros(group, dtype=np.float32)
        rest[: flat.size - whole] = flat[whole:]
        done = whole // block
        search(rest, scratch.x, scratch.work, scales[done:], lows[done:])
    count = flat.size // block
    return scales[:count], lows[:count]
