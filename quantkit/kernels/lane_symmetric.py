"""The searches without a minimum (Q3_K, Q6_K), many sub-blocks at a time, compiled by numba: see ``lane_affine.py``."""

from __future__ import annotations

import numpy as np

from quantkit.kernels.formats import K_QUANTS, NOTHING, KQuant
from quantkit.kernels.lane_common import (
    LANES,
    ONE,
    TENTH,
    ZERO,
    Floats,
    Search,
    clamp,
    compiled,
    gather,
    inlined,
    nearest,
    nearest_int,
    offsets,
)
from quantkit.kernels.searches import MovingSearch, TrialSearch

F32 = np.float32
_Sums = tuple[F32, F32]

_LARGEST, _SIZE, _SCALE, _BEST, _INVERSE, _SUM_LX, _SUM_L2, _MOVING, _CHANGED, _LEVEL = offsets(10)


@inlined
def _find_largest(x: Floats, work: Floats, block: int) -> None:
    """Find the first value of the largest magnitude in each lane, with its sign."""
    for j in range(LANES):
        work[_LARGEST + j] = work[_SIZE + j] = ZERO
    for i in range(block):
        for j in range(LANES):
            v = x[i * LANES + j]
            larger = abs(v) > work[_SIZE + j]
            work[_SIZE + j] = abs(v) if larger else work[_SIZE + j]
            work[_LARGEST + j] = v if larger else work[_LARGEST + j]


@inlined
def _symmetric_sums(x: Floats, i: int, j: int, inverse: F32, least: F32, top: F32, sums: _Sums) -> _Sums:
    """Add one weight to the sums of a trial."""
    sum_lx, sum_l2 = sums
    v = x[i * LANES + j]
    q = clamp(nearest(inverse * v), least, top)
    w = v * v
    return sum_lx + w * v * q, sum_l2 + w * q * q


def _trials(form: KQuant, kind: TrialSearch) -> Search:
    """Compile the search by trials (``make_qx_quants``).

    Returns:
        A function as in ``lane_affine``; the minima it writes are zero.
    """
    block, least, top, nothing = form.block, np.float32(form.least), np.float32(form.top), np.float32(NOTHING)
    steps = (0, *range(-kind.steps, 0), *range(1, kind.steps + 1))
    trials = np.array([least - TENTH * np.float32(step) for step in steps], dtype=np.float32)

    def search(rows: Floats, x: Floats, work: Floats, scales: Floats, lows: Floats) -> None:
        for group in range(rows.size // (LANES * block)):
            gather(rows, group * LANES * block, block, x)
            _find_largest(x, work, block)
            for trial in range(trials.size):
                widened = trials[trial]
                for j in range(LANES):
                    work[_INVERSE + j] = widened / work[_LARGEST + j]
                    work[_SUM_LX + j] = work[_SUM_L2 + j] = ZERO
                for i in range(0, block, 4):
                    for j in range(LANES):
                        inverse, sums = work[_INVERSE + j], (work[_SUM_LX + j], work[_SUM_L2 + j])
                        sums = _symmetric_sums(x, i, j, inverse, least, top, sums)
                        sums = _symmetric_sums(x, i + 1, j, inverse, least, top, sums)
                        sums = _symmetric_sums(x, i + 2, j, inverse, least, top, sums)
                        sums = _symmetric_sums(x, i + 3, j, inverse, least, top, sums)
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
                scales[at + j] = ZERO if work[_SIZE + j] < nothing else work[_SCALE + j]
                lows[at + j] = ZERO

    return compiled(search)


def _moving(form: KQuant, kind: MovingSearch) -> Search:
    """Compile the search that moves one level after the other while that reduces the error (``make_q3_quants``).

    Returns:
        A function as in ``lane_affine``; the minima it writes are zero.
    """
    block, least, top, nothing = form.block, np.float32(form.least), np.float32(form.top), np.float32(NOTHING)
    rounds = kind.rounds

    def search(rows: Floats, x: Floats, work: Floats, scales: Floats, lows: Floats) -> None:
        for group in range(rows.size // (LANES * block)):
            gather(rows, group * LANES * block, block, x)
            _find_largest(x, work, block)
            for j in range(LANES):
                work[_INVERSE + j], work[_MOVING + j] = least / work[_LARGEST + j], ONE
                work[_SUM_LX + j] = work[_SUM_L2 + j] = ZERO
            for i in range(block):
                for j in range(LANES):
                    v = x[i * LANES + j]
                    q = clamp(nearest(work[_INVERSE + j] * v), least, top)
                    w = v * v
                    work[_LEVEL + i * LANES + j] = q
                    work[_SUM_LX + j] += w * v * q
                    work[_SUM_L2 + j] += w * q * q
            for _ in range(rounds):
                for j in range(LANES):
                    work[_CHANGED + j] = ZERO
                for i in range(block):
                    for j in range(LANES):
                        v, q = x[i * LANES + j], work[_LEVEL + i * LANES + j]
                        w, sum_lx, sum_l2 = v * v, work[_SUM_LX + j], work[_SUM_L2 + j]
                        lx, l2 = sum_lx - w * v * q, sum_l2 - w * q * q
                        moved = clamp(np.float32(nearest_int(v * l2 / lx)), least, top)
                        new_lx, new_l2 = lx + w * v * moved, l2 + w * moved * moved
                        better = (work[_MOVING + j] > ZERO) & (lx > ZERO) & (moved != q) & (new_l2 > ZERO)
                        better &= new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2
                        work[_LEVEL + i * LANES + j] = moved if better else q
                        work[_SUM_LX + j] = new_lx if better else sum_lx
                        work[_SUM_L2 + j] = new_l2 if better else sum_l2
                        work[_CHANGED + j] = ONE if better else work[_CHANGED + j]
                for j in range(LANES):
                    work[_MOVING + j] = work[_CHANGED + j]  # a sub-block where nothing moved is done
            at = group * LANES
            for j in range(LANES):
                some = (work[_SIZE + j] >= nothing) & (work[_SUM_L2 + j] > ZERO)
                scales[at + j] = work[_SUM_LX + j] / work[_SUM_L2 + j] if some else ZERO
                lows[at + j] = ZERO

    return compiled(search)


SEARCHES = {
    **{kind: _trials(form, form.search) for kind, form in K_QUANTS.items() if isinstance(form.search, TrialSearch)},
    **{kind: _moving(form, form.search) for kind, form in K_QUANTS.items() if isinstance(form.search, MovingSearch)},
}
