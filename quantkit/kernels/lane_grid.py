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

F32 = np.float32
_Bools = npt.NDArray[np.bool_]
# (blocks, weights, grid, work, points, words, scales, codes, signs, empty), see search.
Search = Callable[[Floats, Floats, Arrays, Floats, Integers, Words, Floats, Codes, Bytes, _Bools], None]


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
    weights = flat * flat if importance is None else lane_units.weigh_blocks(flat, importance)
    count, each = len(flat), SUPER_BLOCK // shape.block
    scales, empty = np.empty((count, each), dtype=np.float32), np.empty((count, each), dtype=np.bool_)
    codes = np.empty((count, SUPER_BLOCK // shape.group), dtype=np.uint16)
    signs = np.empty((count, SUPER_BLOCK // 8), dtype=np.uint8)
    table, groups = table_of(form.type), shape.block // shape.group
    search(form.type)(
        flat.reshape(-1, shape.block),
        weights.reshape(-1, shape.block),
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
def search(kind: GGMLType) -> Search:
    """Compile the search of a format.

    Returns:
        A function of blocks and the weights of their errors, float32 [blocks, block]; the arrays of a
        :class:`quantkit.kernels.lane_nearest.Table`; arrays to work in, float32 [WORK], int32 and uint32
        [groups * LANES]; and what it writes: scales, float32 [blocks], codes, uint16 [blocks, groups], signs, a bit
        for each weight, uint8 [blocks, block / 8], and which blocks are empty, bool [blocks].
    """
    form = GRID_FORMATS[kind]
    block, groups = form.shape.block, form.shape.block // form.shape.group
    even, fits_all = form.even_signs, form.fits_all
    steps, apart, highest = form.search.steps, F32(form.search.apart), F32(2 * form.shape.levels - 1)
    trials, nothing, compiled_steps = 2 * steps + 1, F32(form.nothing), steps_of(form.shape)
    find_points, look_up, add_up = compiled_steps.find_points, compiled_steps.look_up, compiled_steps.add_up
    point_of, nearest_to, fit = compiled_steps.point_of, compiled_steps.nearest_to, compiled_steps.fit
    assert trials <= LANES
    # What look_up concludes from the lowest and the highest scale of some trials.
    assert highest - steps * apart > F32(0.6) * (highest + steps * apart)

    @inlined
    def read(x: Floats, w: Floats, work: Floats, signs: Bytes) -> tuple[F32, F32]:
        """Take the magnitudes of a block apart from the signs: the largest of them, and regardless of a sign left."""
        for part in range(block // 8):
            sign, flips = np.uint8(0), 0
            for i in range(8):
                at = 8 * part + i
                v, below = x[at], x[at] < ZERO
                work[X + at], work[W + at], work[ROOT + at] = (-v if below else v), w[at], root(w[at])
                sign |= np.uint8(np.uint8(below) << np.uint8(i))
                flips += below
            if even and flips % 2:
                least, size = 0, w[8 * part] * x[8 * part] * x[8 * part]
                for i in range(1, 8):
                    at = 8 * part + i
                    other = w[at] * x[at] * x[at]
                    if other < size:
                        least, size = i, other
                work[X + 8 * part + least] = -work[X + 8 * part + least]
                sign ^= np.uint8(np.uint8(1) << np.uint8(least))
            signs[part] = sign
        largest, size = work[X], abs(work[X])
        for i in range(1, block):
            v = work[X + i]
            largest = v if v > largest else largest
            size = abs(v) if abs(v) > size else size
        return largest, size

    @inlined
    def choose(work: Floats, largest: F32) -> tuple[F32, int]:
        """The scale of the best trial, and its number; -1 if there is none."""
        scale, best, chosen = largest / highest, ZERO, -1
        for j in range(trials):
            sum_qx, sum_q2 = work[SUM_QX + j], work[SUM_Q2 + j]
            if sum_q2 > ZERO and sum_qx * sum_qx > best * sum_q2:
                scale, chosen = sum_qx / sum_q2, j
                best = scale * sum_qx
        return scale, chosen

    @inlined
    def look_up_again(grid: Arrays, work: Floats, points: Integers, words: Words, scale: F32, chosen: int) -> F32:
        """With the scale that was found, groups may have better points; returns the scale that fits them."""
        own, counts = grid[0], grid[1]
        off = fits_all and chosen < 0
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
            largest, size = read(blocks[b], weights[b], work, signs[b])
            empty[b] = largest < nothing
            if empty[b]:
                scales[b] = ZERO
                codes[b, :] = 0
                signs[b, :] = 0
                continue
            for j in range(lanes):
                work[INVERSE + j] = (highest + F32(j - steps) * apart) / largest
            for j in range(lanes):
                work[SCALE + j] = ONE / work[INVERSE + j]
            find_points(work, points, lanes)
            look_up(grid, work, points, words, trials, highest * work[SCALE] + size)
            add_up(work, words, lanes)
            scale, chosen = choose(work, largest)
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
