"""The searches with a minimum (Q2_K, Q4_K, Q5_K), many sub-blocks at a time, compiled by numba.

A search takes a few hundred operations per weight; ggml searches one sub-block after the other in scalar code. Here
each lane is a sub-block: every innermost loop runs over lanes and becomes vector instructions, while each lane keeps
ggml's order of sums and therefore its bytes. A branch in C becomes a selection between two values.

All quantities lie in one flat array at fixed offsets: with one array per quantity LLVM could not prove that they do
not overlap, and would not vectorize. Sums stay in registers for four weights.
"""

from __future__ import annotations

import numpy as np

from quantkit.kernels.formats import K_QUANTS
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
    offsets,
)
from quantkit.kernels.searches import AffineSearch

F32 = np.float32
_Sums = tuple[F32, F32, F32]


@inlined
def _level_at(inverse: F32, start: F32, value: F32, top: F32) -> F32:
    return clamp(nearest(inverse * (value - start)), ZERO, top)


@inlined
def _affine_sums(
    x: Floats, work: Floats, level: int, i: int, j: int, average: F32, inverse: F32, low: F32, top: F32, sums: _Sums
) -> _Sums:
    """Add one weight to the sums of a trial, and keep its level."""
    sum_l, sum_l2, sum_xl = sums
    v = x[i * LANES + j]
    q = _level_at(inverse, low, v, top)
    work[level + i * LANES + j] = q
    wq = (average + abs(v)) * q
    return sum_l + wq, sum_l2 + wq * q, sum_xl + wq * v


@inlined
def _affine_error(
    x: Floats, work: Floats, level: int, i: int, j: int, average: F32, scale: F32, low: F32, absolute: bool, error: F32
) -> F32:
    """Add one weight to the error of a trial."""
    v = x[i * LANES + j]
    difference = scale * work[level + i * LANES + j] + low - v
    further: F32 = error + (average + abs(v)) * (abs(difference) if absolute else difference * difference)
    return further


def _affine(block: int, top_level: int, kind: AffineSearch) -> Search:
    """Compile the search of a format with minima (``make_qkx2_quants``).

    Args:
        block: weights in a sub-block.
        top_level: the highest level.
        kind: the search's constants.

    Returns:
        A function of rows (float32, whole groups of LANES sub-blocks), two work arrays (float32 [X] and [WORK]), and
        the scales and negated minima that it writes (float32 [sub-blocks]).
    """
    n, top, absolute = np.float32(block), np.float32(top_level), kind.absolute
    steps = range(kind.steps + 1)
    trials = np.array([np.float32(kind.first) + TENTH * np.float32(step) + top for step in steps], dtype=np.float32)
    SCALE, LOW, BEST, HIGH, SUM_W, SUM_X, AVERAGE, INVERSE, A, B, C, D, E, LEVEL = offsets(14)

    def search(rows: Floats, x: Floats, work: Floats, scales: Floats, lows: Floats) -> None:
        for group in range(rows.size // (LANES * block)):
            gather(rows, group * LANES * block, block, x)
            for j in range(LANES):
                work[LOW + j] = work[HIGH + j] = x[j]
                work[A + j] = x[j] * x[j]
            for i in range(1, block):
                for j in range(LANES):
                    v = x[i * LANES + j]
                    work[LOW + j] = v if v < work[LOW + j] else work[LOW + j]
                    work[HIGH + j] = v if v > work[HIGH + j] else work[HIGH + j]
                    work[A + j] += v * v
            for j in range(LANES):
                average = ZERO if absolute else np.sqrt(work[A + j] / n)
                w = average + abs(x[j])
                work[AVERAGE + j], work[SUM_W + j], work[SUM_X + j] = average, w, w * x[j]
                work[LOW + j] = ZERO if work[LOW + j] > ZERO else work[LOW + j]
            for i in range(1, block):
                for j in range(LANES):
                    w = work[AVERAGE + j] + abs(x[i * LANES + j])
                    work[SUM_W + j] += w
                    work[SUM_X + j] += w * x[i * LANES + j]
            for j in range(LANES):
                inverse = top / (work[HIGH + j] - work[LOW + j])
                work[INVERSE + j], work[SCALE + j], work[BEST + j] = inverse, ONE / inverse, ZERO
            for i in range(block):
                for j in range(LANES):
                    work[LEVEL + i * LANES + j] = _level_at(work[INVERSE + j], work[LOW + j], x[i * LANES + j], top)
                    average, scale, low, error = work[AVERAGE + j], work[SCALE + j], work[LOW + j], work[BEST + j]
                    work[BEST + j] = _affine_error(x, work, LEVEL, i, j, average, scale, low, absolute, error)
            for trial in trials:
                for j in range(LANES):
                    work[INVERSE + j] = trial / (work[HIGH + j] - work[LOW + j])
                    work[A + j] = work[B + j] = work[C + j] = work[E + j] = ZERO
                for i in range(0, block, 4):
                    for j in range(LANES):
                        average, inverse, low = work[AVERAGE + j], work[INVERSE + j], work[LOW + j]
                        sums = work[A + j], work[B + j], work[C + j]
                        sums = _affine_sums(x, work, LEVEL, i, j, average, inverse, low, top, sums)
                        sums = _affine_sums(x, work, LEVEL, i + 1, j, average, inverse, low, top, sums)
                        sums = _affine_sums(x, work, LEVEL, i + 2, j, average, inverse, low, top, sums)
                        sums = _affine_sums(x, work, LEVEL, i + 3, j, average, inverse, low, top, sums)
                        work[A + j], work[B + j], work[C + j] = sums
                for j in range(LANES):
                    sum_l, sum_l2, sum_xl = work[A + j], work[B + j], work[C + j]
                    sum_w, sum_x = work[SUM_W + j], work[SUM_X + j]
                    determinant = sum_w * sum_l2 - sum_l * sum_l
                    scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
                    low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
                    work[A + j], work[D + j] = (sum_xl / sum_l2 if low > ZERO else scale), determinant
                    work[B + j] = ZERO if low > ZERO else low
                for i in range(0, block, 4):
                    for j in range(LANES):
                        average, scale, low, error = work[AVERAGE + j], work[A + j], work[B + j], work[E + j]
                        error = _affine_error(x, work, LEVEL, i, j, average, scale, low, absolute, error)
                        error = _affine_error(x, work, LEVEL, i + 1, j, average, scale, low, absolute, error)
                        error = _affine_error(x, work, LEVEL, i + 2, j, average, scale, low, absolute, error)
                        error = _affine_error(x, work, LEVEL, i + 3, j, average, scale, low, absolute, error)
                        work[E + j] = error
                for j in range(LANES):
                    better = (work[D + j] > ZERO) & (work[E + j] < work[BEST + j])
                    work[BEST + j] = work[E + j] if better else work[BEST + j]
                    work[SCALE + j] = work[A + j] if better else work[SCALE + j]
                    work[LOW + j] = work[B + j] if better else work[LOW + j]  # the following trials start from it
            at = group * LANES
            for j in range(LANES):
                scales[at + j], lows[at + j] = work[SCALE + j], -work[LOW + j]

    return compiled(search)


SEARCHES = {
    kind: _affine(form.block, form.top, form.search)
    for kind, form in K_QUANTS.items()
    if isinstance(form.search, AffineSearch)
}
