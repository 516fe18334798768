"""The search for the scales of IQ4_NL and IQ4_XS, and their levels, compiled by numba: see ``lane_affine.py``.

ggml looks the nearest value of the table up for every weight in each of 16 trials. The first is a guess, and the others
differ by 6 % at most from the middle one, which is less than neighbouring middles of the table are apart: from the
first of them to the middle one a weight takes one of two values, and so it does from there to the last. Three look-ups
find these values, and one comparison per trial tells which of the two it is.
"""

from __future__ import annotations

import itertools

import numpy as np

from quantkit.kernels import lane_units
from quantkit.kernels.formats import IQ4_VALUES, NOTHING, TABLE_FORMATS, TableFormat
from quantkit.kernels.iq4_layout import BLOCK, pack, store
from quantkit.kernels.lane_common import ONE, ZERO, Bytes, Floats, compiled, inlined

F32 = np.float32
_Sums = tuple[F32, F32]

# Blocks at a time: what the trials read of them stays in the first-level cache.
LANES = 32
_EACH = BLOCK * LANES
# Offsets in the work array: eight quantities per weight, five per block.
_X, _MIDDLE, _LOW_QX, _LOW_Q2, _HIGH_QX, _HIGH_Q2, _W, _CENTRAL = range(0, 8 * _EACH, _EACH)
_LARGEST, _SIZE, _INVERSE, _SCALE, _BEST = range(8 * _EACH, 8 * _EACH + 5 * LANES, LANES)
WORK = 8 * _EACH + 5 * LANES

_QUARTER = BLOCK // 4
(_STEPS,) = {form.search.steps for form in TABLE_FORMATS.values()}
_LEAST, _HALF, _NOTHING = F32(IQ4_VALUES[0]), F32(0.5), F32(NOTHING)
V0, V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12, V13, V14, V15 = (F32(value) for value in IQ4_VALUES)
M1, M2, M3, M4, M5, M6, M7, M8, M9, M10, M11, M12, M13, M14, M15 = (
    F32((low + high) / 2) for low, high in itertools.pairwise(IQ4_VALUES)
)


def encode(form: TableFormat, rows: Floats, importance: Floats | None = None) -> Bytes:
    """Encode rows.

    Args:
        form: the format.
        rows: float32, contiguous, columns a multiple of the type's block.
        importance: float32, shape [columns], or None.

    Returns:
        uint8, shape [blocks of the type, bytes per block].
    """
    blocks, weights = rows.reshape(-1, BLOCK), np.empty(0, dtype=np.float32)
    scales, pairs = np.empty(len(blocks), dtype=np.float32), np.empty((len(blocks), BLOCK // 2), dtype=np.uint8)
    if importance is not None:
        weights = lane_units.weigh_blocks(rows.reshape(-1, form.together * BLOCK), importance, 2).reshape(-1)
    search(rows.reshape(-1), weights, np.empty(WORK, dtype=np.float32), scales)
    stored = store(form, scales)
    fit(blocks, stored.inverses, pairs)
    return pack(form, stored, pairs)


@inlined
def _nearest_value(v: F32) -> F32:
    """The value of the table nearest to *v*, of two the higher."""
    q = V0
    q = V1 if v >= M1 else q
    q = V2 if v >= M2 else q
    q = V3 if v >= M3 else q
    q = V4 if v >= M4 else q
    q = V5 if v >= M5 else q
    q = V6 if v >= M6 else q
    q = V7 if v >= M7 else q
    q = V8 if v >= M8 else q
    q = V9 if v >= M9 else q
    q = V10 if v >= M10 else q
    q = V11 if v >= M11 else q
    q = V12 if v >= M12 else q
    q = V13 if v >= M13 else q
    q = V14 if v >= M14 else q
    return V15 if v >= M15 else q


@inlined
def _nearest_number(v: F32) -> np.int32:
    """The number of that value; the last for NaN, as in C."""
    n = np.int32(0)
    n = np.int32(1) if not v < M1 else n
    n = np.int32(2) if not v < M2 else n
    n = np.int32(3) if not v < M3 else n
    n = np.int32(4) if not v < M4 else n
    n = np.int32(5) if not v < M5 else n
    n = np.int32(6) if not v < M6 else n
    n = np.int32(7) if not v < M7 else n
    n = np.int32(8) if not v < M8 else n
    n = np.int32(9) if not v < M9 else n
    n = np.int32(10) if not v < M10 else n
    n = np.int32(11) if not v < M11 else n
    n = np.int32(12) if not v < M12 else n
    n = np.int32(13) if not v < M13 else n
    n = np.int32(14) if not v < M14 else n
    return np.int32(15) if not v < M15 else n


@inlined
def _read(rows: Floats, weights: Floats, first: int, work: Floats) -> None:
    """Transpose LANES blocks, from block *first*, and the weights of their errors; zeros follow the last block."""
    last = rows.size // BLOCK - 1
    for j in range(LANES):
        base, factor = min(first + j, last) * BLOCK, ONE if first + j <= last else ZERO
        for i in range(BLOCK):
            work[_X + i * LANES + j] = rows[base + i] * factor
        if weights.size:
            for i in range(BLOCK):
                work[_W + i * LANES + j] = weights[base + i]
    if not weights.size:
        for at in range(_EACH):
            work[_W + at] = work[_X + at] * work[_X + at]


@inlined
def _find_largest(work: Floats, lanes: int) -> None:
    """Find the first value of the largest magnitude in each lane, with its sign."""
    for j in range(lanes):
        work[_LARGEST + j] = work[_SIZE + j] = ZERO
    for i in range(BLOCK):
        for j in range(LANES):
            v = work[_X + i * LANES + j]
            larger = abs(v) > work[_SIZE + j]
            work[_SIZE + j] = abs(v) if larger else work[_SIZE + j]
            work[_LARGEST + j] = v if larger else work[_LARGEST + j]


@inlined
def _add(work: Floats, at: int, q: F32, sums: _Sums) -> _Sums:
    """Add one weight to the sums of a trial."""
    sum_qx, sum_q2 = sums
    wq = work[_W + at] * q
    return sum_qx + wq * work[_X + at], sum_q2 + wq * q


@inlined
def _look_up(work: Floats, lanes: int, step: int, to: int) -> None:
    """Find the values of a trial."""
    for j in range(lanes):
        work[_INVERSE + j] = (F32(step) + _LEAST) / work[_LARGEST + j]
    _look_up_at_inverse(work, to)


@inlined
def _look_up_at_inverse(work: Floats, to: int) -> None:
    for i in range(BLOCK):
        for j in range(LANES):
            work[to + i * LANES + j] = _nearest_value(work[_INVERSE + j] * work[_X + i * LANES + j])


@inlined
def _guess(work: Floats, lanes: int) -> None:
    """Make the first trial, for which nothing is known yet."""
    for j in range(lanes):
        work[_INVERSE + j] = ONE / (-work[_LARGEST + j] / _LEAST)
    _look_up_at_inverse(work, _LOW_QX)
    for j in range(LANES):
        qx = q2 = ZERO
        for i in range(BLOCK // 2):
            qx, q2 = _add(work, i * LANES + j, work[_LOW_QX + i * LANES + j], (qx, q2))
        for i in range(BLOCK // 2, BLOCK):
            qx, q2 = _add(work, i * LANES + j, work[_LOW_QX + i * LANES + j], (qx, q2))
        scale = qx / q2
        scale = scale if q2 > ZERO else ZERO
        work[_SCALE + j], work[_BEST + j] = scale, scale * qx


@inlined
def _prepare(work: Floats, lanes: int, outermost: int) -> None:
    """Find the two values that each weight has from a trial to the central one, and what each adds to the sums."""
    _look_up(work, lanes, outermost, _LOW_QX)
    for at in range(_EACH):
        x, w, one, other = work[_X + at], work[_W + at], work[_LOW_QX + at], work[_CENTRAL + at]
        low, high = (one, other) if one < other else (other, one)
        work[_MIDDLE + at] = (one + other) * _HALF
        work[_LOW_QX + at], work[_LOW_Q2 + at] = w * low * x, w * low * low
        work[_HIGH_QX + at], work[_HIGH_Q2 + at] = w * high * x, w * high * high


@inlined
def _choose(work: Floats, at: int, inverse: F32, sums: _Sums) -> _Sums:
    # All are read before the comparison: a branch would not be vectorized.
    low_qx, low_q2, high_qx, high_q2 = work[_LOW_QX + at], work[_LOW_Q2 + at], work[_HIGH_QX + at], work[_HIGH_Q2 + at]
    higher = inverse * work[_X + at] >= work[_MIDDLE + at]
    return sums[0] + (high_qx if higher else low_qx), sums[1] + (high_q2 if higher else low_q2)


@inlined
def _keep_better(scale: F32, best: F32, sums: _Sums) -> _Sums:
    """The scale of the best trial so far, and how good it is."""
    qx, q2 = sums
    better, fit = (q2 > ZERO) & (qx * qx > best * q2), qx / q2
    return fit if better else scale, fit * qx if better else best


@inlined
def _try_four(work: Floats, first: int) -> None:
    """Make the trials of four steps, for which a weight has one of two values; the last step again in place of more."""
    a, b, c = F32(first) + _LEAST, F32(first + 1) + _LEAST, F32(first + 2) + _LEAST
    d = F32(min(first + 3, _STEPS)) + _LEAST
    for j in range(LANES):
        largest = work[_LARGEST + j]
        inverse_a, inverse_b, inverse_c, inverse_d = a / largest, b / largest, c / largest, d / largest
        sums_a = sums_b = sums_c = sums_d = (ZERO, ZERO)
        # LLVM unrolls a loop of eight, and then vectorizes the one around it.
        for i in range(_QUARTER):
            at = i * LANES + j
            sums_a, sums_b = _choose(work, at, inverse_a, sums_a), _choose(work, at, inverse_b, sums_b)
            sums_c, sums_d = _choose(work, at, inverse_c, sums_c), _choose(work, at, inverse_d, sums_d)
        for i in range(_QUARTER, 2 * _QUARTER):
            at = i * LANES + j
            sums_a, sums_b = _choose(work, at, inverse_a, sums_a), _choose(work, at, inverse_b, sums_b)
            sums_c, sums_d = _choose(work, at, inverse_c, sums_c), _choose(work, at, inverse_d, sums_d)
        for i in range(2 * _QUARTER, 3 * _QUARTER):
            at = i * LANES + j
            sums_a, sums_b = _choose(work, at, inverse_a, sums_a), _choose(work, at, inverse_b, sums_b)
            sums_c, sums_d = _choose(work, at, inverse_c, sums_c), _choose(work, at, inverse_d, sums_d)
        for i in range(3 * _QUARTER, BLOCK):
            at = i * LANES + j
            sums_a, sums_b = _choose(work, at, inverse_a, sums_a), _choose(work, at, inverse_b, sums_b)
            sums_c, sums_d = _choose(work, at, inverse_c, sums_c), _choose(work, at, inverse_d, sums_d)
        scale, best = _keep_better(work[_SCALE + j], work[_BEST + j], sums_a)
        scale, best = _keep_better(scale, best, sums_b)
        scale, best = _keep_better(scale, best, sums_c)
        work[_SCALE + j], work[_BEST + j] = _keep_better(scale, best, sums_d)


@compiled
def search(rows: Floats, weights: Floats, work: Floats, scales: Floats) -> None:
    """Find the scales.

    Args:
        rows: float32 [weights].
        weights: of their errors, float32 [weights]; empty for squares.
        work: float32 [WORK].
        scales: the result, float32 [blocks of 32].
    """
    lanes = work.size // (WORK // LANES)  # a constant would be unrolled, and then not vectorized
    for first in range(0, scales.size, LANES):
        _read(rows, weights, first, work)
        _find_largest(work, lanes)
        _guess(work, lanes)
        _look_up(work, lanes, 0, _CENTRAL)
        _prepare(work, lanes, -_STEPS)
        for step in range(-_STEPS, 1, 4):
            _try_four(work, step)
        _prepare(work, lanes, _STEPS)
        for step in range(1, _STEPS + 1, 4):
            _try_four(work, step)
        for j in range(min(LANES, scales.size - first)):
            scales[first + j] = ZERO if work[_SIZE + j] < _NOTHING else work[_SCALE + j]


@compiled
def fit(blocks: Floats, inverses: Floats, pairs: Bytes) -> None:
    """Find the levels, two per byte.

    Args:
        blocks: float32 [blocks of 32, 32].
        inverses: float32 [blocks of 32].
        pairs: the result, uint8 [blocks of 32, 16].
    """
    middle = pairs.shape[1]  # a constant would be unrolled, and then not vectorized
    for block in range(blocks.shape[0]):
        inverse = inverses[block]
        for i in range(middle):
            low = _nearest_number(inverse * blocks[block, i])
            high = _nearest_number(inverse * blocks[block, i + middle])
            pairs[block, i] = np.uint8(low | high << np.int32(4))
