"""Encoders with an importance matrix for the processor, compiled by numba: bytes equal to libggml's.

Errors are weighed by the importance of their column and the size of the value (``lane_units``), the sub-blocks are
searched (``lane_weighted``), and a super-block's scales and minima are fitted to their units by the same weights.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache

import numpy as np

from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lane_fit, lane_units, lane_weighted
from quantkit.kernels.arithmetic import Bytes, Floats, Integers, half_bytes, nearest_int
from quantkit.kernels.formats import BLOCK_FORMATS, K_QUANTS, SUPER_BLOCK, BlockFormat, KQuant
from quantkit.kernels.lane_weighted import INVERSE, LOW, SCALE, START, SUM
from quantkit.kernels.searches import AffineSearch
from quantkit.kernels.super_block import JOINS, LAYOUTS, Stored, pack_levels

# The mean square of a super-block counts twice in these formats.
_TWICE = frozenset({GGMLType.Q3_K, GGMLType.Q4_K, GGMLType.Q5_K})
# The scales of Q3_K: six bits with a sign, found as the levels of Q6_K are.
_Q3_SCALES = K_QUANTS[GGMLType.Q6_K]


def encode(kind: GGMLType, rows: Floats, importance: Floats) -> Bytes:
    """Encode rows.

    Args:
        kind: a format with a search with importances, see :attr:`quantkit.kernels.formats.Format.weighted`.
        rows: float32, shape [n, columns], contiguous, columns a multiple of the type's block; decided, see
            :mod:`quantkit.kernels.rounding`.
        importance: float32, shape [columns]; weighable.

    Returns:
        uint8, shape [blocks, bytes per block].
    """
    if kind in K_QUANTS:
        return _encode_super_blocks(K_QUANTS[kind], rows, importance)
    return _encode_blocks(BLOCK_FORMATS[kind], rows, importance)


def _encode_super_blocks(form: KQuant, rows: Floats, importance: Floats) -> Bytes:
    kind, flat = form.type, rows.reshape(-1, SUPER_BLOCK)
    if kind is GGMLType.Q6_K:
        weights = np.broadcast_to(importance, rows.shape).reshape(flat.shape)
    else:
        weights = _weigh(flat, importance, 2 if kind in _TWICE else 1)
    found = _search(_compiled_search(form), flat, weights, form.block)
    stored = _store(kind, found)
    levels = np.empty(rows.size, dtype=np.uint8)
    lane_fit.FITS[kind](flat.reshape(-1), stored.scales, stored.lows, levels)
    # A sub-block whose stored scale is zero keeps the levels of its search.
    unscaled = np.flatnonzero(stored.scales == 0)
    if unscaled.size:
        blocks = levels.reshape(-1, form.block)
        blocks[unscaled] = _searched_levels(form, flat.reshape(-1, form.block)[unscaled], found[:, unscaled])
    encoded = LAYOUTS[kind].pack(levels.reshape(flat.shape), stored.parts)
    per_row = importance.size // SUPER_BLOCK
    for number in np.unique(np.flatnonzero(np.isnan(found[SCALE])) * form.block // SUPER_BLOCK):
        part = importance.reshape(per_row, SUPER_BLOCK)[number % per_row]
        encoded[number] = ggml.quantize_rows(kind, flat[number : number + 1], part)
    return encoded


def _encode_blocks(form: BlockFormat, rows: Floats, importance: Floats) -> Bytes:
    blocks = rows.reshape(-1, form.block)
    found = _search(_compiled_search(form), blocks, _weigh(rows, importance, 1), form.block)
    parts = [half_bytes(found[SCALE])] + ([half_bytes(-found[LOW])] if len(form.halves) > 1 else [])
    encoded = np.concatenate([*parts, pack_levels(_searched_levels(form, blocks, found), form.bits)], axis=1)
    for row in np.unique(np.flatnonzero(np.isnan(found[SCALE])) * form.block // importance.size):
        again = ggml.quantize_rows(form.type, rows[row : row + 1], importance)
        encoded.reshape(rows.shape[0], -1)[row] = again
    return encoded


def _weigh(rows: Floats, importance: Floats, times: int) -> Floats:
    """The weights of errors, float32 [n, columns]: a row's mean square, *times* over, is the variance."""
    squares, weights = np.empty(rows.shape[0], dtype=np.float32), np.empty_like(rows)
    lane_units.add_squares(rows, squares)
    variances = np.float32(times) * squares / np.float32(rows.shape[1])
    lane_units.weigh(rows, variances, np.ascontiguousarray(importance), weights)
    return weights


def _compiled_search(form: KQuant | BlockFormat) -> lane_weighted.Search:
    if isinstance(form.weighted, AffineSearch):
        return lane_weighted.affine(form.block, form.top, form.weighted)
    assert form.weighted is not None
    return lane_weighted.trials(form.block, form.least, form.top, form.weighted)


def _store(kind: GGMLType, found: Floats) -> Stored:
    """Scales and minima as the format stores them."""
    if kind is GGMLType.Q6_K:
        return LAYOUTS[kind].store(found[SCALE], found[LOW])
    if kind is GGMLType.Q3_K:
        search = lane_weighted.trials(16, _Q3_SCALES.least, _Q3_SCALES.top, _Q3_SCALES.weighted)
        units = _search(search, found[SCALE].reshape(-1, 16), found[SUM].reshape(-1, 16), 16)
        steps = np.clip(nearest_int(units[INVERSE, :, None] * found[SCALE].reshape(-1, 16)), -32, 31) + 32
        return JOINS[kind]([(units[SCALE], np.where(units[INVERSE, :, None] != 0, steps, 0))])
    per_super_block, top = (16, 15) if kind is GGMLType.Q2_K else (8, 63)
    fitted = [fit_unit(found[values], found[SUM], per_super_block, top) for values in (SCALE, LOW)]
    if kind is GGMLType.Q5_K:  # the one format that limits a byte that wrapped
        fitted = [(unit, np.minimum(steps, top)) for unit, steps in fitted]
    return JOINS[kind](fitted)


def _searched_levels(form: KQuant | BlockFormat, blocks: Floats, found: Floats) -> Bytes:
    """The levels of a search less the least, uint8 [sub-blocks, block]."""
    levels = np.empty(blocks.shape, dtype=np.uint8)
    inverses, starts = (np.ascontiguousarray(found[which]) for which in (INVERSE, START))
    lane_weighted.levels_of(form.least, form.top)(np.ascontiguousarray(blocks), inverses, starts, levels)
    return levels


class _Scratch(threading.local):
    """The work arrays of one thread."""

    def __init__(self) -> None:
        x, work = max(lane_weighted.X, lane_units.X), max(lane_weighted.WORK, lane_units.WORK)
        self.x, self.work = np.zeros(x, dtype=np.float32), np.zeros(work, dtype=np.float32)


@cache
def _scratch() -> _Scratch:
    return _Scratch()


def _search(search: lane_weighted.Search, values: Floats, weights: Floats, block: int) -> Floats:
    """What a search finds of each sub-block, float32 [5, sub-blocks]."""
    scratch, group = _scratch(), lane_weighted.LANES * block
    found = np.empty((5, -(-values.size // group) * lane_weighted.LANES), dtype=np.float32)
    for start, part, weighed in _groups(values.reshape(-1), weights.reshape(-1), group):
        mine = found[:, start // block :][:, : part.size // block]
        search(part, weighed, scratch.x, scratch.work, mine)
    return found[:, : values.size // block]


def fit_unit(values: Floats, weights: Floats, block: int, top: int) -> tuple[Floats, Integers]:
    """The unit of each super-block's values, float32 [n], and their multiples of it, int32 [n, block]."""
    scratch, group = _scratch(), lane_units.LANES * block
    padded = -(-values.size // group) * group
    units, steps = np.empty(padded // block, dtype=np.float32), np.empty(padded, dtype=np.uint8)
    fit = lane_units.find_unit(block, top)
    for start, part, weighed in _groups(values, weights, group):
        fit(part, weighed, scratch.x, scratch.work, units[start // block :], steps[start:])
    count = values.size
    return units[: count // block], steps[:count].reshape(-1, block).astype(np.int32)


def _groups(values: Floats, weights: Floats, group: int) -> Iterator[tuple[int, Floats, Floats]]:
    """Whole groups of lanes, with their offset: most at once, then the last with zeros after it."""
    whole = values.size // group * group
    if whole:
        yield 0, values[:whole], weights[:whole]
    if whole < values.size:
        rest = np.zeros((2, group), dtype=np.float32)
        rest[0, : values.size - whole], rest[1, : values.size - whole] = values[whole:], weights[whole:]
        yield whole, rest[0], rest[1]
