"""The searches of Q3_K and Q6_K, many sub-blocks side by side, compiled by numba: see ``lane_affine.py``."""

from __future__ import annotations

import numpy as np

from quantkit.kernels.lane_common import (
    LANES,
    ONE,
    TENTH,
    ZERO,
    Floats,
    clamp,
    compiled,
    gather,
    inlined,
    nearest,
    nearest_int,
    offsets,
)

F32 = np.float32
_Sums = tuple[F32, F32]

# Below this a block is all zeros to ggml (GROUP_MAX_EPS).
_NOTHING = np.float32(1e-15)
_LARGEST, _SIZE, _SCALE, _BEST, _INVERSE, _SUM_LX, _SUM_L2, _MOVING, _CHANGED, _LEVEL = offsets(10)


@inlined
def _find_largest(x: Floats, work: Floats) -> None:
    """The first value of the largest magnitude in each lane, with its sign."""
    for j in range(LANES):
        work[_LARGEST + j] = work[_SIZE + j] = ZERO
    for i in range(16):
        for j in range(LANES):
            v = x[i * LANES + j]
            larger = abs(v) > work[_SIZE + j]
            work[_SIZE + j] = abs(v) if larger else work[_SIZE + j]
            work[_LARGEST + j] = v if larger else work[_LARGEST + j]


@inlined
def _symmetric_sums(x: Floats, i: int, j: int, inverse: F32, sums: _Sums) -> _Sums:
    """The sums of a trial, one weight further."""
    sum_lx, sum_l2 = sums
    v = x[i * LANES + j]
    q = clamp(nearest(inverse * v), np.float32(-32), np.float32(31))
    w = v * v
    return sum_lx + w * v * q, sum_l2 + w * q * q


@compiled
def search_q6(rows: Floats, x: Floats, work: Floats, scales: Floats, lows: Floats) -> None:
    """``make_qx_quants`` for levels of -32..31; arguments as in ``lane_affine``, minima are zero."""
    for group in range(rows.size // (LANES * 16)):
        gather(rows, group * LANES * 16, 16, x)
        _find_largest(x, work)
        for trial in range(19):
            step = 0 if trial == 0 else (trial - 10 if trial <= 9 else trial - 9)
            widened = -(np.float32(32) + TENTH * np.float32(step))
            for j in range(LANES):
                work[_INVERSE + j] = widened / work[_LARGEST + j]
                work[_SUM_LX + j] = work[_SUM_L2 + j] = ZERO
            for i in range(0, 16, 4):
                for j in range(LANES):
                    inverse, sums = work[_INVERSE + j], (work[_SUM_LX + j], work[_SUM_L2 + j])
                    sums = _symmetric_sums(x, i, j, inverse, sums)
                    sums = _symmetric_sums(x, i + 1, j, inverse, sums)
                    sums = _symmetric_sums(x, i + 2, j, inverse, sums)
                    sums = _symmetric_sums(x, i + 3, j, inverse, sums)
                    work[_SUM_LX + j], work[_SUM_L2 + j] = sums
            first = trial == 0
            for j in range(LANES):
                lx, l2 = work[_SUM_LX + j], work[_SUM_L2 + j]
                better = first | ((l2 > ZERO) & (lx * lx > work[_BEST + j] * l2))
                fit = lx / l2
                fit = fit if l2 != ZERO else ZERO
                work[_SCALE + j] = fit if better else work[_SCALE + j]
                work[_BEST + j] = fit * lx if better else work[_BEST + j]
        at = group * LANES
        for j in range(LANES):
            scales[at + j] = ZERO if work[_SIZE + j] < _NOTHING else work[_SCALE + j]
            lows[at + j] = ZERO


@compiled
def search_q3(rows: Floats, x: Floats, work: Floats, scales: Floats, lows: Floats) -> None:
    """``make_q3_quants``: one level after the other is moved, while that helps; arguments as in ``lane_affine``."""
    low, high = np.float32(-4), np.float32(3)
    for group in range(rows.size // (LANES * 16)):
        gather(rows, group * LANES * 16, 16, x)
        _find_largest(x, work)
        for j in range(LANES):
            work[_INVERSE + j], work[_MOVING + j] = low / work[_LARGEST + j], ONE
            work[_SUM_LX + j] = work[_SUM_L2 + j] = ZERO
        for i in range(16):
            for j in range(LANES):
                v = x[i * LANES + j]
                q = clamp(nearest(work[_INVERSE + j] * v), low, high)
                w = v * v
                work[_LEVEL + i * LANES + j] = q
                work[_SUM_LX + j] += w * v * q
                work[_SUM_L2 + j] += w * q * q
        for _ in range(5):
            for j in range(LANES):
                work[_CHANGED + j] = ZERO
            for i in range(16):
                for j in range(LANES):
                    v, q = x[i * LANES + j], work[_LEVEL + i * LANES + j]
                    w, sum_lx, sum_l2 = v * v, work[_SUM_LX + j], work[_SUM_L2 + j]
                    lx, l2 = sum_lx - w * v * q, sum_l2 - w * q * q
                    moved = clamp(np.float32(nearest_int(v * l2 / lx)), low, high)
                    new_lx, new_l2 = lx + w * v * moved, l2 + w * moved * moved
                    better = (work[_MOVING + j] > ZERO) & (lx > ZERO) & (moved != q) & (new_l2 > ZERO)
                    better &= new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2
                    work[_LEVEL + i * LANES + j] = moved if better else q
                    work[_SUM_LX + j] = new_lx if better else sum_lx
                    work[_SUM_L2 + j] = new_l2 if better else sum_l2
                    work[_CHANGED + j] = ONE if better else work[_CHANGED + j]
            for j in range(LANES):
                work[_MOVING + j] = work[_CHANGED + j]  # a sub-block in which nothing moved has ended
        at = group * LANES
        for j in range(LANES):
            some = (work[_SIZE + j] >= _NOTHING) & (work[_SUM_L2 + j] > ZERO)
            scales[at + j] = work[_SUM_LX + j] / work[_SUM_L2 + j] if some else ZERO
            lows[at + j] = ZERO
