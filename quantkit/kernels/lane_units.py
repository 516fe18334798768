"""What goes before and after the searches with importances: the weights of errors, and units of scales and minima."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from quantkit.kernels.formats import NOTHING
from quantkit.kernels.lane_common import ONE, TENTH, ZERO, Bytes, Floats, compiled, inlined, nearest_int, root

F32 = np.float32
# (values, weights, x, work, units, steps), see find_unit.
Fit = Callable[[Floats, Floats, Floats, Floats, Floats, Bytes], None]

LANES = 64
# Values that share a unit, at most.
_MOST = 32
X, WORK = 2 * _MOST * LANES, (10 + _MOST) * LANES
_W = _MOST * LANES
_LARGEST, _INVERSE, _TRIED, _UNIT, _BEST, _ERROR, _SUM_LX, _SUM_L2, _LEVEL = range(0, 9 * LANES, LANES)


@compiled
def add_squares(rows: Floats, sums: Floats) -> None:
    """The sum of squares of each row, in the order of its columns: float32 [n, columns] to [n]."""
    whole = rows.shape[0] // 8 * 8
    for r in range(0, whole, 8):  # side by side: a sum waits for its last addition
        a = b = c = d = e = f = g = h = ZERO
        for i in range(rows.shape[1]):
            a += rows[r, i] * rows[r, i]
            b += rows[r + 1, i] * rows[r + 1, i]
            c += rows[r + 2, i] * rows[r + 2, i]
            d += rows[r + 3, i] * rows[r + 3, i]
            e += rows[r + 4, i] * rows[r + 4, i]
            f += rows[r + 5, i] * rows[r + 5, i]
            g += rows[r + 6, i] * rows[r + 6, i]
            h += rows[r + 7, i] * rows[r + 7, i]
        sums[r], sums[r + 1], sums[r + 2], sums[r + 3] = a, b, c, d
        sums[r + 4], sums[r + 5], sums[r + 6], sums[r + 7] = e, f, g, h
    for r in range(whole, rows.shape[0]):
        a = ZERO
        for i in range(rows.shape[1]):
            a += rows[r, i] * rows[r, i]
        sums[r] = a


@compiled
def weigh(rows: Floats, variances: Floats, importance: Floats, out: Floats) -> None:
    """The weights of errors: ``importance * sqrt(variance + x * x)``.

    Args:
        rows: float32 [n, columns].
        variances: of each row, float32 [n].
        importance: of columns, float32, a multiple of those of *rows*: each row takes the next.
        out: written, as *rows*.
    """
    column = 0
    for r in range(rows.shape[0]):
        variance = variances[r]
        for i in range(rows.shape[1]):
            out[r, i] = importance[column + i] * root(variance + rows[r, i] * rows[r, i])
        column += rows.shape[1]
        column = 0 if column == importance.size else column


def weigh_blocks(blocks: Floats, importance: Floats | None, times: float) -> Floats:
    """The weights of errors, float32 as *blocks* [n, weights]: a block's mean square, *times* over, is its variance.

    Without importances the weight is the variance and the square of the value.
    """
    if importance is None and not times:
        return blocks * blocks
    squares, weights = np.empty(blocks.shape[0], dtype=np.float32), np.empty_like(blocks)
    add_squares(blocks, squares)
    variances = squares * np.float32(times / blocks.shape[1])
    if importance is None:
        np.multiply(blocks, blocks, out=weights)
        weights += variances[:, None]
        return weights
    weigh(blocks, variances, np.ascontiguousarray(importance), weights)
    return weights


@inlined
def _least(level: np.int32, top: np.int32) -> F32:
    return np.float32(level if level < top else top)


@inlined
def _byte(level: F32) -> F32:
    """What C's byte makes of a level: a level below zero wraps."""
    return np.float32(np.int32(level) & np.int32(255))


@cache
def find_unit(block: int, top_level: int) -> Fit:
    """Compile the fit of values to multiples of a unit (``make_qp_quants``), LANES fits at a time.

    What ggml makes of values below zero is part of it.

    Args:
        block: values that share a unit, 32 at most.
        top_level: the highest multiple.

    Returns:
        A function of values and their weights (float32, whole groups of LANES * block), two work arrays (float32 [X]
        and [WORK]), and what it writes: units (float32, one per block) and multiples (uint8, one per value).
    """
    top, most, nothing = np.float32(top_level), np.int32(top_level), np.float32(NOTHING)
    steps = [step for step in range(-4, 5) if step]
    trials = np.array([TENTH * np.float32(step) + top for step in steps], dtype=np.float32)

    def fit(values: Floats, weights: Floats, x: Floats, work: Floats, units: Floats, out: Bytes) -> None:
        for group in range(values.size // (LANES * block)):
            base = group * LANES * block
            for j in range(LANES):
                work[_LARGEST + j] = ZERO
                for i in range(block):
                    x[i * LANES + j] = values[base + j * block + i]
                    x[_W + i * LANES + j] = weights[base + j * block + i]
            for i in range(block):
                for j in range(LANES):
                    v = x[i * LANES + j]
                    work[_LARGEST + j] = v if v > work[_LARGEST + j] else work[_LARGEST + j]
            for j in range(LANES):
                inverse = top / work[_LARGEST + j]
                work[_INVERSE + j], work[_UNIT + j], work[_BEST + j] = inverse, ONE / inverse, ZERO
            for i in range(block):
                for j in range(LANES):
                    v, w = x[i * LANES + j], x[_W + i * LANES + j]
                    difference = v - work[_UNIT + j] * _byte(np.float32(nearest_int(work[_INVERSE + j] * v)))
                    work[_BEST + j] += w * difference * difference
            for trial in trials:
                for j in range(LANES):
                    tried = trial / work[_LARGEST + j]
                    work[_TRIED + j], work[_UNIT + j], work[_ERROR + j] = tried, ONE / tried, ZERO
                for i in range(block):
                    for j in range(LANES):
                        v, w = x[i * LANES + j], x[_W + i * LANES + j]
                        difference = v - work[_UNIT + j] * _least(nearest_int(work[_TRIED + j] * v), most)
                        work[_ERROR + j] += w * difference * difference
                for j in range(LANES):
                    better = work[_ERROR + j] < work[_BEST + j]
                    work[_BEST + j] = work[_ERROR + j] if better else work[_BEST + j]
                    work[_INVERSE + j] = work[_TRIED + j] if better else work[_INVERSE + j]
            for j in range(LANES):
                work[_SUM_LX + j] = work[_SUM_L2 + j] = ZERO
            for i in range(block):
                for j in range(LANES):
                    v, w = x[i * LANES + j], x[_W + i * LANES + j]
                    level = _least(nearest_int(work[_INVERSE + j] * v), most)
                    work[_LEVEL + i * LANES + j] = _byte(level)
                    work[_SUM_LX + j] += w * v * level
                    work[_SUM_L2 + j] += w * level * level
            for _ in range(5):  # where nothing moves, nothing will
                for i in range(block):
                    for j in range(LANES):
                        v, w, level = x[i * LANES + j], x[_W + i * LANES + j], work[_LEVEL + i * LANES + j]
                        sum_lx, sum_l2 = work[_SUM_LX + j], work[_SUM_L2 + j]
                        lx, l2 = sum_lx - w * v * level, sum_l2 - w * level * level
                        moved = _least(nearest_int(v * l2 / lx), most)
                        new_lx, new_l2 = lx + w * v * moved, l2 + w * moved * moved
                        better = (lx > ZERO) & (l2 > ZERO) & (moved != level)
                        better &= new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2
                        work[_LEVEL + i * LANES + j] = _byte(moved) if better else level
                        work[_SUM_LX + j] = new_lx if better else sum_lx
                        work[_SUM_L2 + j] = new_l2 if better else sum_l2
            for j in range(LANES):
                some = work[_LARGEST + j] >= nothing
                l2 = work[_SUM_L2 + j]
                units[group * LANES + j] = work[_SUM_LX + j] / l2 if some & (l2 > ZERO) else ZERO
                for i in range(block):
                    level = work[_LEVEL + i * LANES + j]
                    out[base + j * block + i] = np.uint8(np.int32(level if some else ZERO))

    return compiled(fit)
