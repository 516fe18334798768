"""The formats whose groups of weights are points of a grid, in numpy operations.

Equal to ggml's ``quantize_iq3_s``, ``quantize_iq2_xs`` and so on, byte for byte.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Bytes, Floats, nearest_int, quiet
from quantkit.kernels.formats import SUPER_BLOCK, GridFormat
from quantkit.kernels.grid_layout import PACKERS, Codes, Parts, store_scales
from quantkit.kernels.grids import Grid, grid_of
from quantkit.kernels.reference.arithmetic import ordered_sum
from quantkit.kernels.reference.unit import find_units

_Bools = npt.NDArray[np.bool_]


def encode_grid(form: GridFormat, rows: Floats, importance: Floats | None = None) -> Bytes:
    """Encode rows.

    Args:
        form: the format.
        rows: float32, columns a multiple of 256.
        importance: float32, shape [columns], or None.

    Returns:
        uint8, shape [super-blocks, bytes per super-block].
    """
    block, super_blocks = form.shape.block, rows.size // SUPER_BLOCK
    with quiet():
        weights = weigh(rows, importance, form.variance, form.alone)
        values, below = _magnitudes(form, rows.reshape(-1, 8), weights.reshape(-1, 8))
        values, weights = values.reshape(-1, block), weights.reshape(-1, block)
        largest = values.max(axis=1)
        start, span = largest / np.float32(2 * form.shape.levels - 1), largest
        if form.from_unit:
            start = find_units(values, weights, form.shape.levels + 1)
            span = start * np.float32(form.shape.levels)
        empty = (largest < np.float32(form.nothing)) | (span <= 0)
        scales, codes = _search(form, values, weights, start, span)
        below ^= (scales < 0).repeat(block // 8)[:, None]
        scales = np.where(empty, np.float32(0), np.abs(scales))
        codes[empty] = 0
        below[empty.repeat(block // 8)] = False
        unit, steps = store_scales(form, scales.reshape(super_blocks, -1))
    codes, signs = codes.reshape(super_blocks, -1), np.packbits(below, axis=1, bitorder="little")
    if form.even_signs:  # these zero a super-block whose scales are all zero; the others store what was found
        nothing = (scales == 0).reshape(super_blocks, -1).all(axis=1)
        codes[nothing] = 0
        signs.reshape(super_blocks, -1)[nothing] = 0
    empty = empty.reshape(super_blocks, -1)
    return PACKERS[form.type](Parts(unit, steps, codes, signs.reshape(super_blocks, -1), empty))


def weigh(rows: Floats, importance: Floats | None, variance: float = 2, alone: float | None = 0) -> Floats:
    """How much the error of each weight counts, float32 [n, columns].

    The mean square of a super-block, *variance* times with importances and *alone* times without, is added to a
    weight's own square.
    """
    squares: Floats = rows * rows
    times = alone if importance is None else variance
    assert times is not None
    mean = ordered_sum(squares.reshape(-1, SUPER_BLOCK)) * np.float32(times / SUPER_BLOCK)
    sizes: Floats = mean.reshape(rows.shape[0], -1).repeat(SUPER_BLOCK, axis=1) + squares
    return sizes if importance is None else importance * np.sqrt(sizes)


def _magnitudes(form: GridFormat, x: Floats, weights: Floats) -> tuple[Floats, _Bools]:
    """Magnitudes, float32 [n, 8], and which are below zero.

    Where the number of signs must be even and is not, the weight that matters least has the other sign, and then its
    magnitude is below zero.
    """
    below = x < 0
    values = np.where(below, -x, x)
    if form.even_signs:
        odd = np.flatnonzero(below.sum(axis=1) % 2)
        least = (weights[odd] * x[odd] * x[odd]).argmin(axis=1)
        values[odd, least] *= np.float32(-1)
        below[odd, least] ^= True
    return values, below


def _search(form: GridFormat, values: Floats, weights: Floats, scale: Floats, span: Floats) -> tuple[Floats, Codes]:
    """Scales, float32 [blocks], and codes, uint16 [blocks, groups].

    Args:
        form: the format.
        values: magnitudes, float32 [blocks, block].
        weights: of their errors, float32 [blocks, block].
        scale: the one to take if no trial is better, float32 [blocks].
        span: the values that trials give the highest level, or almost, float32 [blocks].
    """
    highest, best = np.float32(2 * form.shape.levels - 1), np.zeros_like(scale)
    codes = np.zeros((len(values), form.shape.block // form.shape.group), dtype=np.uint16)
    on_grid = np.full(codes.shape, not form.fits_all)
    for step in range(-form.search.steps, form.search.steps + 1):
        inverse = (highest + np.float32(step) * np.float32(form.search.apart)) / span
        tried, on = _look_up(form, values, weights, inverse, np.float32(1) / inverse)
        sum_qx, sum_q2 = _sums(form, values, weights, tried)
        better = (sum_q2 > 0) & (sum_qx * sum_qx > best * sum_q2)
        scale = np.where(better, sum_qx / sum_q2, scale)
        best = np.where(better, scale * sum_qx, best)
        codes, on_grid = np.where(better[:, None], tried, codes), np.where(better[:, None], on, on_grid)
    # With the scale that was found, groups may have better points.
    again = (scale > 0) & (form.from_unit | ~on_grid.all(axis=1))
    fitted, _ = _look_up(form, values, weights, np.float32(1) / scale, scale)
    codes = np.where(again[:, None] & (form.fits_all | ~on_grid), fitted, codes)
    sum_qx, sum_q2 = _sums(form, values, weights, codes)
    return np.where(again & (sum_q2 > 0), sum_qx / sum_q2, scale), codes


def _look_up(form: GridFormat, values: Floats, weights: Floats, inverse: Floats, scale: Floats) -> tuple[Codes, _Bools]:
    """The code of each group, uint16 [blocks, groups], and whether its levels were on the grid."""
    shape, grid = form.shape, grid_of(form.type)
    levels = np.clip(nearest_int(np.float32(0.5) * (inverse[:, None] * values - np.float32(1))), 0, shape.levels - 1)
    numbers = levels.reshape(-1, shape.group) @ shape.levels ** np.arange(shape.group)
    codes = grid.codes[numbers]
    off = np.flatnonzero(codes < 0)
    x, w = (array.reshape(-1, shape.group)[off] for array in (values, np.sqrt(weights)))
    candidates = padded(form.type)[numbers[off]]
    points = (2 * grid.points + np.uint8(1)).astype(np.float32)[candidates]
    errors = scale.repeat(shape.block // shape.group)[off][:, None, None] * points - x[:, None]
    squares = ordered_sum((w[:, None] * errors * errors).reshape(-1, shape.group)).reshape(candidates.shape)
    squares[candidates < 0] = np.inf
    codes[off] = candidates[np.arange(off.size), squares.argmin(axis=1)]  # of equal ones the first
    blocks = len(values)
    return codes.reshape(blocks, -1).astype(np.uint16), (grid.codes[numbers] >= 0).reshape(blocks, -1)


@cache
def padded(kind: GGMLType) -> npt.NDArray[np.int32]:
    """The neighbours of each lattice point, int32 [lattice points, the most that one has], filled up with -1."""
    grid: Grid = grid_of(kind)
    counts = np.diff(grid.starts)
    there = np.arange(counts.max()) < counts[:, None]
    padded = np.full(there.shape, -1, dtype=np.int32)
    padded[there] = grid.neighbours
    return padded


def _sums(form: GridFormat, values: Floats, weights: Floats, codes: Codes) -> tuple[Floats, Floats]:
    """The sums of w x q and of w q q of each block, float32 [blocks]; never -0."""
    q = (2 * grid_of(form.type).points + np.uint8(1)).astype(np.float32)[codes].reshape(values.shape)
    return ordered_sum(weights * values * q) + np.float32(0), ordered_sum(weights * q * q)
