"""The searches that weigh errors by importance, many sub-blocks at a time, compiled by numba: see ``lane_affine.py``.

A search is a function of values and their weights (float32, whole groups of LANES sub-blocks), two work arrays
(float32 [X] and [WORK]), and the array that it fills, float32 [5, sub-blocks]: by the constants below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from quantkit.kernels.formats import NOTHING
from quantkit.kernels.lane_common import ONE, TENTH, ZERO, Bytes, Floats, clamp, compiled, inlined, nearest
from quantkit.kernels.searches import AffineSearch, TrialSearch

F32 = np.float32
_Sums = tuple[F32, F32, F32]
Search = Callable[[Floats, Floats, Floats, Floats, Floats], None]

# Values, their weights and their levels have to stay in the first cache.
LANES = 64
# Sizes of the work arrays, in floats. The first has the values, and from _W on the weights.
_W = 32 * LANES
X, WORK = 2 * 32 * LANES, (16 + 32) * LANES

# Of each sub-block: its scale (NaN where only libggml can say), the negated minimum, and the sum of the weights. Its
# levels are what (value - START) * INVERSE is rounded to; all zero if INVERSE is.
SCALE, LOW, SUM, INVERSE, START = range(5)

(
    _HIGH, _MIN, _SUM_W, _SUM_X, _FIT, _BEST, _TRIED, _MOST, _A, _B, _C, _D, _E, _RANGE, _KEPT_INVERSE,
    _KEPT_START, _LEVEL,
) = range(0, 17 * LANES, LANES)  # fmt: skip
# Fits that leave a range so small that values are rounded as if they wrapped are libggml's.
_WILD = np.float32(2.0**20)


@inlined
def _gather(rows: Floats, base: int, block: int, x: Floats, at: int) -> None:
    """Transpose LANES sub-blocks of *rows*, from offset *base*: weight i of lane j to at + i * LANES + j."""
    for j in range(LANES):
        for i in range(block):
            x[at + i * LANES + j] = rows[base + j * block + i]


@inlined
def _add(x: Floats, work: Floats, i: int, j: int, inverse: F32, low: F32, top: F32, sums: _Sums) -> _Sums:
    """Add one weight to the sums of a trial, and keep its level."""
    sum_l, sum_l2, sum_xl = sums
    v = x[i * LANES + j]
    q = clamp(nearest(inverse * (v - low)), ZERO, top)
    work[_LEVEL + i * LANES + j] = q
    wq = x[_W + i * LANES + j] * q
    return sum_l + wq, sum_l2 + wq * q, sum_xl + wq * v


@inlined
def _add_error(x: Floats, work: Floats, i: int, j: int, scale: F32, low: F32, error: F32) -> F32:
    """Add one weight to the error of a trial."""
    difference = scale * work[_LEVEL + i * LANES + j] + low - x[i * LANES + j]
    further: F32 = error + x[_W + i * LANES + j] * (difference * difference)
    return further


@cache
def affine(block: int, top_level: int, kind: AffineSearch) -> Search:
    """Compile the search for a scale and a minimum (``make_qkx3_quants``).

    Args:
        block: weights in a sub-block.
        top_level: the highest level; the lowest is zero.
        kind: the search's constants.
    """
    top, apart, most = np.float32(top_level), np.float32(kind.apart), _WILD
    steps = range(kind.steps + 1)
    trials = np.array([np.float32(kind.first) + apart * np.float32(step) + top for step in steps], dtype=np.float32)

    def search(rows: Floats, weights: Floats, x: Floats, work: Floats, found: Floats) -> None:
        for group in range(rows.size // (LANES * block)):
            _gather(rows, group * LANES * block, block, x, 0)
            _gather(weights, group * LANES * block, block, x, _W)
            for j in range(LANES):
                work[_MIN + j] = work[_HIGH + j] = x[j]
                work[_SUM_W + j], work[_SUM_X + j] = x[_W + j], x[_W + j] * x[j]
            for i in range(1, block):
                for j in range(LANES):
                    v, w = x[i * LANES + j], x[_W + i * LANES + j]
                    work[_MIN + j] = v if v < work[_MIN + j] else work[_MIN + j]
                    work[_HIGH + j] = v if v > work[_HIGH + j] else work[_HIGH + j]
                    work[_SUM_W + j] += w
                    work[_SUM_X + j] += w * v
            for j in range(LANES):
                low = ZERO if work[_MIN + j] > ZERO else work[_MIN + j]
                inverse = top / (work[_HIGH + j] - low)
                work[_MIN + j] = work[_KEPT_START + j] = low
                work[_TRIED + j] = work[_KEPT_INVERSE + j] = work[_MOST + j] = inverse
                work[_RANGE + j] = work[_HIGH + j] - low
                work[_FIT + j], work[_BEST + j] = ONE / inverse, ZERO
            for i in range(block):
                for j in range(LANES):
                    q = clamp(nearest(work[_TRIED + j] * (x[i * LANES + j] - work[_MIN + j])), ZERO, top)
                    work[_LEVEL + i * LANES + j] = q
                    work[_BEST + j] = _add_error(x, work, i, j, work[_FIT + j], work[_MIN + j], work[_BEST + j])
            for trial in trials:
                for j in range(LANES):
                    inverse = trial / (work[_HIGH + j] - work[_MIN + j])
                    work[_TRIED + j] = inverse
                    work[_MOST + j] = abs(inverse) if abs(inverse) > work[_MOST + j] else work[_MOST + j]
                    work[_A + j] = work[_B + j] = work[_C + j] = work[_E + j] = ZERO
                for i in range(0, block, 4):
                    for j in range(LANES):
                        inverse, low = work[_TRIED + j], work[_MIN + j]
                        sums = work[_A + j], work[_B + j], work[_C + j]
                        sums = _add(x, work, i, j, inverse, low, top, sums)
                        sums = _add(x, work, i + 1, j, inverse, low, top, sums)
                        sums = _add(x, work, i + 2, j, inverse, low, top, sums)
                        sums = _add(x, work, i + 3, j, inverse, low, top, sums)
                        work[_A + j], work[_B + j], work[_C + j] = sums
                for j in range(LANES):
                    sum_l, sum_l2, sum_xl = work[_A + j], work[_B + j], work[_C + j]
                    sum_w, sum_x = work[_SUM_W + j], work[_SUM_X + j]
                    determinant = sum_w * sum_l2 - sum_l * sum_l
                    scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
                    low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
                    work[_A + j], work[_D + j] = (sum_xl / sum_l2 if low > ZERO else scale), determinant
                    work[_B + j] = ZERO if low > ZERO else low
                for i in range(0, block, 4):
                    for j in range(LANES):
                        scale, low, error = work[_A + j], work[_B + j], work[_E + j]
                        error = _add_error(x, work, i, j, scale, low, error)
                        error = _add_error(x, work, i + 1, j, scale, low, error)
                        error = _add_error(x, work, i + 2, j, scale, low, error)
                        error = _add_error(x, work, i + 3, j, scale, low, error)
                        work[_E + j] = error
                for j in range(LANES):
                    better = (work[_D + j] > ZERO) & (work[_E + j] < work[_BEST + j])
                    work[_BEST + j] = work[_E + j] if better else work[_BEST + j]
                    work[_FIT + j] = work[_A + j] if better else work[_FIT + j]
                    work[_KEPT_INVERSE + j] = work[_TRIED + j] if better else work[_KEPT_INVERSE + j]
                    work[_KEPT_START + j] = work[_MIN + j] if better else work[_KEPT_START + j]
                    work[_MIN + j] = work[_B + j] if better else work[_MIN + j]  # the following trials start from it
            at = group * LANES
            for j in range(LANES):
                span = work[_RANGE + j]
                wild = work[_MOST + j] * span >= most
                found[SCALE, at + j] = np.nan if wild else work[_FIT + j]
                found[LOW, at + j], found[SUM, at + j] = -work[_MIN + j], work[_SUM_W + j]
                found[INVERSE, at + j] = work[_KEPT_INVERSE + j] if span > ZERO else ZERO
                found[START, at + j] = work[_KEPT_START + j]

    return compiled(search)


@inlined
def _add_symmetric(
    x: Floats, i: int, j: int, inverse: F32, least: F32, top: F32, sums: tuple[F32, F32]
) -> tuple[F32, F32]:
    """Add one weight to the sums of a trial."""
    v, w = x[i * LANES + j], x[_W + i * LANES + j]
    q = clamp(nearest(inverse * v), least, top)
    return sums[0] + w * v * q, sums[1] + w * q * q


@cache
def trials(block: int, least_level: int, top_level: int, kind: TrialSearch) -> Search:
    """Compile the search for a scale by trials (``make_qx_quants``); its minima are zero.

    Args:
        block: weights in a sub-block.
        least_level: the lowest level.
        top_level: the highest level.
        kind: the search's constants.
    """
    least, top, nothing = np.float32(least_level), np.float32(top_level), np.float32(NOTHING)
    order = (0, *range(-kind.steps, 0), *range(1, kind.steps + 1))
    tried = np.array([least - TENTH * np.float32(step) for step in order], dtype=np.float32)

    def search(rows: Floats, weights: Floats, x: Floats, work: Floats, found: Floats) -> None:
        for group in range(rows.size // (LANES * block)):
            _gather(rows, group * LANES * block, block, x, 0)
            _gather(weights, group * LANES * block, block, x, _W)
            for j in range(LANES):
                work[_HIGH + j] = work[_D + j] = work[_SUM_W + j] = ZERO
            for i in range(block):
                for j in range(LANES):
                    v = x[i * LANES + j]
                    larger = abs(v) > work[_D + j]
                    work[_D + j] = abs(v) if larger else work[_D + j]
                    work[_HIGH + j] = v if larger else work[_HIGH + j]
                    work[_SUM_W + j] += x[_W + i * LANES + j]
            for trial in range(tried.size):
                widened = tried[trial]
                for j in range(LANES):
                    work[_TRIED + j] = widened / work[_HIGH + j]
                    work[_A + j] = work[_B + j] = ZERO
                for i in range(0, block, 4):
                    for j in range(LANES):
                        inverse, sums = work[_TRIED + j], (work[_A + j], work[_B + j])
                        sums = _add_symmetric(x, i, j, inverse, least, top, sums)
                        sums = _add_symmetric(x, i + 1, j, inverse, least, top, sums)
                        sums = _add_symmetric(x, i + 2, j, inverse, least, top, sums)
                        sums = _add_symmetric(x, i + 3, j, inverse, least, top, sums)
                        work[_A + j], work[_B + j] = sums
                first = trial == 0
                for j in range(LANES):
                    lx, l2 = work[_A + j], work[_B + j]
                    better = first | ((l2 > ZERO) & (lx * lx > work[_BEST + j] * l2))
                    fit = lx / l2
                    fit = fit if l2 != ZERO else ZERO
                    work[_FIT + j] = fit if better else work[_FIT + j]
                    work[_BEST + j] = fit * lx if better else work[_BEST + j]
                    work[_KEPT_INVERSE + j] = work[_TRIED + j] if better else work[_KEPT_INVERSE + j]
            at = group * LANES
            for j in range(LANES):
                some = work[_D + j] >= nothing
                found[SCALE, at + j] = work[_FIT + j] if some else ZERO
                found[INVERSE, at + j] = work[_KEPT_INVERSE + j] if some else ZERO
                found[LOW, at + j] = found[START, at + j] = ZERO
                found[SUM, at + j] = work[_SUM_W + j]

    return compiled(search)


def _levels(least_level: int, top_level: int) -> Callable[[Floats, Floats, Floats, Bytes], None]:
    """Compile what makes levels of what a search found.

    Returns:
        A function of values (float32 [sub-blocks, block]), INVERSE and START (float32 [sub-blocks] each), and the
        levels less the least that it writes (uint8 [sub-blocks, block]).
    """
    least, top = np.float32(least_level), np.float32(top_level)

    def levels(rows: Floats, inverses: Floats, starts: Floats, out: Bytes) -> None:
        for k in range(rows.shape[0]):
            inverse, start = inverses[k], starts[k]
            for i in range(rows.shape[1]):
                level = clamp(nearest(inverse * (rows[k, i] - start)), least, top) - least
                out[k, i] = np.uint8(np.int32(level if inverse != ZERO else ZERO))

    return compiled(levels)


levels_of = cache(_levels)
