"""The search for the scales and the codes of formats with a grid, compiled by numba: see ``lane_points.py``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.kernels import lane_units
from quantkit.kernels.arithmetic import Bytes, Floats, Integers
from quantkit.kernels.formats import GRID_FORMATS, SUPER_BLOCK, GridFormat
from quantkit.kernels.grid_layout import PACKERS, Codes, Parts, store_scales
from quantkit.kernels.lane_common import ONE, ZERO, compiled, inlined, root
from quantkit.kernels.lane_nearest import table_of
from quantkit.kernels.lane_points import (
    FITTED,
    INVERSE,
    LANES,
    ROOT,
    SCALE,
    SUM_Q2,
    SUM_QX,
    WORK,
    Arrays,
    W,
    Words,
    X,
    steps_of,
)
from quantkit.kernels.weighted import fit_unit

F32 = np.float32
_Bools = npt.NDArray[np.bool_]
# (values, weights, magnitudes, signs), see fold.
Fold = Callable[[Floats, Floats, Floats, Bytes], None]
# (blocks, weights, units, grid, work, points, words, scales, codes, signs, empty), see search.
Search = Callable[[Floats, Floats, Floats, Arrays, Floats, Integers, Words, Floats, Codes, Bytes, _Bools], None]


def encode(form: GridFormat, rows: Floats, importance: Floats | None = None) -> Bytes:
    """Encode rows.

    Args:
        form: the format.
        rows: float32, contiguous, columns a multiple of 256.
        importance: float32, shape [columns], or None.

    Returns:
        uint8, shape [super-blocks, bytes per super-block].
    """
    flat, shape = rows.reshape(-1, SUPER_BLOCK), form.shape
    times = form.alone if importance is None else form.variance
    assert times is not None, form.type
    weights = lane_units.weigh_blocks(flat, importance, times)
    count, each = len(flat), SUPER_BLOCK // shape.block
    scales, empty = np.empty((count, each), dtype=np.float32), np.empty((count, each), dtype=np.bool_)
    codes = np.empty((count, SUPER_BLOCK // shape.group), dtype=np.uint16)
    signs = np.empty((count, SUPER_BLOCK // 8), dtype=np.uint8)
    values, table, groups = np.empty_like(flat), table_of(form.type), shape.block // shape.group
    fold(form.even_signs)(flat.reshape(-1, 8), weights.reshape(-1, 8), values.reshape(-1, 8), signs.reshape(-1))
    units = np.empty(0, dtype=np.float32)
    if form.from_unit:
        units, _ = fit_unit(values.reshape(-1), weights.reshape(-1), shape.block, shape.levels + 1)
    search(form.type)(
        values.reshape(-1, shape.block),
        weights.reshape(-1, shape.block),
        units,
        (table.own, table.counts, table.firsts, table.candidates, table.words),
        np.zeros(WORK, dtype=np.float32),
        np.zeros(groups * LANES, dtype=np.int32),
        np.zeros(groups * LANES, dtype=np.uint32),
        scales.reshape(-1),
        codes.reshape(-1, groups),
        signs.reshape(-1, shape.block // 8),
        empty.reshape(-1),
    )
    unit, steps = store_scales(form, scales)
    if form.even_signs:  # these zero a super-block whose scales are all zero; the others store what was found
        nothing = ~scales.any(axis=1)
        codes[nothing] = 0
        signs[nothing] = 0
    return PACKERS[form.type](Parts(unit, steps, codes, signs, empty))


@cache
def fold(even: bool) -> Fold:
    """Compile what takes magnitudes apart from signs.

    Where the number of signs must be *even* and is not, the value that matters least has the other sign, and then its
    magnitude is below zero.

    Returns:
        A function of values and the weights of their errors, float32 [n, 8], and what it writes: magnitudes, float32
        [n, 8], and a bit for each value that is set below zero, uint8 [n].
    """

    def run(x: Floats, w: Floats, out: Floats, signs: Bytes) -> None:
        for part in range(signs.size):
            sign, flips = np.uint8(0), 0
            for i in range(8):
                v, below = x[part, i], x[part, i] < ZERO
                out[part, i] = -v if below else v
                sign |= np.uint8(np.uint8(below) << np.uint8(i))
                flips += below
            if even and flips % 2:
                least, size = 0, w[part, 0] * x[part, 0] * x[part, 0]
                for i in range(1, 8):
                    other = w[part, i] * x[part, i] * x[part, i]
                    if other < size:
                        least, size = i, other
                out[part, least] = -out[part, least]
                sign ^= np.uint8(np.uint8(1) << np.uint8(least))
            signs[part] = sign

    return compiled(run)


@cache
def search(kind: GGMLType) -> Search:
    """Compile the search of a format.

    Returns:
        A function of blocks of magnitudes and the weights of their errors, float32 [blocks, block]; the units that
        the search begins with, float32 [blocks], or nothing; the arrays of a
        :class:`quantkit.kernels.lane_nearest.Table`; arrays to work in, float32 [WORK], int32 and uint32
        [groups * LANES]; and what it writes: scales, float32 [blocks], codes, uint16 [blocks, groups], and which blocks
        are empty, bool [blocks]. It changes signs, a bit for each weight, uint8 [blocks, block / 8].
    """
    form = GRID_FORMATS[kind]
    block, groups = form.shape.block, form.shape.block // form.shape.group
    fits_all, from_unit, levels = form.fits_all, form.from_unit, F32(form.shape.levels)
    steps, apart, highest = form.search.steps, F32(form.search.apart), F32(2 * form.shape.levels - 1)
    trials, nothing, compiled_steps = 2 * steps + 1, F32(form.nothing), steps_of(form.shape)
    find_points, look_up, add_up = compiled_steps.find_points, compiled_steps.look_up, compiled_steps.add_up
    point_of, nearest_to, fit = compiled_steps.point_of, compiled_steps.nearest_to, compiled_steps.fit
    assert trials <= LANES
    # What look_up concludes from the lowest and the highest scale of some trials.
    assert highest - steps * apart > F32(0.6) * (highest + steps * apart)

    @inlined
    def read(x: Floats, w: Floats, work: Floats) -> tuple[F32, F32]:
        """Take a block: the largest of its magnitudes, and regardless of a sign left."""
        for i in range(block):
            work[X + i], work[W + i], work[ROOT + i] = x[i], w[i], root(w[i])
        largest, size = work[X], abs(work[X])
        for i in range(1, block):
            v = work[X + i]
            largest = v if v > largest else largest
            size = abs(v) if abs(v) > size else size
        return largest, size

    @inlined
    def choose(work: Floats, start: F32) -> tuple[F32, int]:
        """The scale of the best trial, and its number; -1 and the scale given if there is none."""
        best, chosen = ZERO, -1
        for j in range(trials):
            sum_qx, sum_q2 = work[SUM_QX + j], work[SUM_Q2 + j]
            if sum_q2 > ZERO and sum_qx * sum_qx > best * sum_q2:
                best, chosen = work[FITTED + j] * sum_qx, j
        return (work[FITTED + chosen] if chosen >= 0 else start), chosen

    @inlined
    def look_up_again(grid: Arrays, work: Floats, points: Integers, words: Words, scale: F32, chosen: int) -> F32:
        """With the scale that was found, groups may have better points; returns the scale that fits them."""
        own, counts = grid[0], grid[1]
        off = from_unit or (fits_all and chosen < 0)
        for k in range(groups):
            off |= chosen >= 0 and counts[points[k * LANES + chosen]] > 0
        if not (off and scale > ZERO):
            return scale
        inverse = ONE / scale
        for k in range(groups):
            if fits_all or counts[points[k * LANES + chosen]] > 0:
                point = point_of(work, k, inverse)
                on = counts[point] == 0
                words[k * LANES] = own[point] if on else nearest_to(grid, work, point, k, scale)
        return fit(work, words, scale)

    def run(
        blocks: Floats,
        weights: Floats,
        units: Floats,
        grid: Arrays,
        work: Floats,
        points: Integers,
        words: Words,
        scales: Floats,
        codes: Codes,
        signs: Bytes,
        empty: _Bools,
    ) -> None:
        lanes = work.size * LANES // WORK  # a constant would be unrolled, and then not vectorized
        for b in range(scales.size):
            largest, size = read(blocks[b], weights[b], work)
            start, span = largest / highest, largest
            if from_unit:
                start, span = units[b], units[b] * levels
            empty[b] = (largest < nothing) | (span <= ZERO)
            if empty[b]:
                scales[b] = ZERO
                codes[b, :] = 0
                signs[b, :] = 0
                continue
            for j in range(lanes):
                work[INVERSE + j] = (highest + F32(j - steps) * apart) / span
            for j in range(lanes):
                work[SCALE + j] = ONE / work[INVERSE + j]
            find_points(work, points, lanes)
            look_up(grid, work, points, words, trials, highest * work[SCALE] + size)
            add_up(work, words, lanes)
            for j in range(lanes):
                work[FITTED + j] = work[SUM_QX + j] / work[SUM_Q2 + j]
            scale, chosen = choose(work, start)
            for k in range(groups):
                words[k * LANES] = words[k * LANES + chosen] if chosen >= 0 else grid[0][0]
            scale = look_up_again(grid, work, points, words, scale, chosen)
            if scale < ZERO:
                scale = -scale
                for part in range(block // 8):
                    signs[b, part] = ~signs[b, part]
            for k in range(groups):
                codes[b, k] = words[k * LANES] >> np.uint32(16)
            scales[b] = scale

    return compiled(run)
