"""The search for the scales and the codes of formats with a grid, compiled by numba: see ``lane_nearest.py``.

One block after the other. The lanes are the trials of its search: they find the levels of every group and add the sums
side by side; between these steps each group of each trial is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.kernels import lane_units
from quantkit.kernels.arithmetic import Bytes, Floats
from quantkit.kernels.formats import GRID_FORMATS, SUPER_BLOCK, GridFormat
from quantkit.kernels.grid_layout import PACKERS, Parts, store_scales
from quantkit.kernels.lane_common import ONE, ZERO, compiled, inlined, nearest_int, root
from quantkit.kernels.lane_nearest import WIDTH, lowest, nearest, set_lines, table_of

F32 = np.float32
Words = npt.NDArray[np.uint32]
# (blocks, weights, grid, work, numbers, words, scales, codes, signs, empty), see search.
Search = Callable[..., None]

LANES = 32
# Offsets in the work array: what a block has, and what its trials have.
_X, _W, _ROOT, _INVERSE, _SCALE, _SUM_QX, _SUM_Q2, _LINES = range(0, 8 * LANES, LANES)
# Chunks of a list at most, for which lines are found.
_MOST = 4
WORK = 7 * LANES + 2 * _MOST * WIDTH
_HALF, _SMALL = F32(0.5), F32(1e-30)
# Twice what rounding changes in the difference of two errors and of two lines, in units of the largest possible error.
_MARGIN = F32(2.0**-17)


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
    shape, even, fits_all = form.shape, form.even_signs, form.fits_all
    block, group, bits = shape.block, shape.group, np.uint32(16 // shape.group)
    quads, per_group, levels_of_four = block // 4, group // 4, np.int32(shape.levels**4)
    groups, levels, top = block // group, np.int32(shape.levels), np.int32(shape.levels - 1)
    steps, apart, highest = form.search.steps, F32(form.search.apart), F32(2 * shape.levels - 1)
    trials, nothing, mask = 2 * steps + 1, F32(form.nothing), np.uint32((1 << 16 // shape.group) - 1)
    one_chunk = nearest(group)
    lines_one, lines_two, lines_most = (set_lines(group, chunks) for chunks in (1, 2, _MOST))
    lowest_one, lowest_two, lowest_most = (lowest(chunks) for chunks in (1, 2, _MOST))
    assert trials <= LANES
    assert shape.levels**group <= 1 << 16

    @inlined
    def level_of(inverse: F32, x: F32) -> np.int32:
        level = nearest_int(_HALF * (inverse * x - ONE))
        level = np.int32(0) if level < np.int32(0) else level
        return top if level > top else level

    @inlined
    def value_in(word: np.uint32, i: int) -> F32:
        """The value of weight *i* of a group: an odd number."""
        return F32(np.int32((word >> np.uint32(i) * bits & mask) * np.uint32(2) + np.uint32(1)))

    @inlined
    def find(grid, work, point, k, scale):  # type: ignore[no-untyped-def]
        """The word of the neighbour of lattice point *point* that is nearest to group *k*."""
        _, counts, firsts, candidates, words = grid
        count, first = counts[point], np.int64(firsts[point])
        best = np.int64(0x7FFFFFFFFFFFFFFF)
        for start in range(0, count, WIDTH):
            left, chunk = np.int32(count - start), first + start // WIDTH
            found = one_chunk(candidates, chunk, left, work, _X + k * group, _ROOT + k * group, scale)
            found += start
            best = found if found < best else best
        return words[first * WIDTH + (best & np.int64(0xFFFFFFFF))]

    @inlined
    def read(x, w, work, signs):  # type: ignore[no-untyped-def]
        """Take the magnitudes of a block apart from the signs; returns the largest, and the largest of any sign."""
        for part in range(block // 8):
            sign, flips = np.uint8(0), 0
            for i in range(8):
                at = 8 * part + i
                v, below = x[at], x[at] < ZERO
                work[_X + at], work[_W + at], work[_ROOT + at] = (-v if below else v), w[at], root(w[at])
                sign |= np.uint8(np.uint8(below) << np.uint8(i))
                flips += below
            if even and flips % 2:
                least, size = 0, w[8 * part] * x[8 * part] * x[8 * part]
                for i in range(1, 8):
                    at = 8 * part + i
                    other = w[at] * x[at] * x[at]
                    if other < size:
                        least, size = i, other
                work[_X + 8 * part + least] = -work[_X + 8 * part + least]
                sign ^= np.uint8(np.uint8(1) << np.uint8(least))
            signs[part] = sign
        largest, size = work[_X], abs(work[_X])
        for i in range(1, block):
            v = work[_X + i]
            largest = v if v > largest else largest
            size = abs(v) if abs(v) > size else size
        return largest, size

    @inlined
    def find_points(work, numbers, lanes):  # type: ignore[no-untyped-def]
        """The lattice point of each group in each trial."""
        for quad in range(quads):
            at, start, later = 4 * quad, quad // per_group * LANES, quad % per_group > 0
            a, b, c, d = work[_X + at], work[_X + at + 1], work[_X + at + 2], work[_X + at + 3]
            for j in range(lanes):
                inverse = work[_INVERSE + j]
                number = levels * level_of(inverse, d) + level_of(inverse, c)
                number = levels * (levels * number + level_of(inverse, b)) + level_of(inverse, a)
                numbers[start + j] = numbers[start + j] + number * levels_of_four if later else number

    @inlined
    def set_lines_of(candidates, first, count, work, k):  # type: ignore[no-untyped-def]
        """Find the lines of the candidates of group *k*."""
        x, w = _X + k * group, _ROOT + k * group
        if count <= WIDTH:
            lines_one(candidates, first, count, work, x, w, _LINES)
        elif count <= 2 * WIDTH:
            lines_two(candidates, first, count, work, x, w, _LINES)
        else:
            lines_most(candidates, first, count, work, x, w, _LINES)

    @inlined
    def lowest_of(work, count, j, margin):  # type: ignore[no-untyped-def]
        """The candidate that is the nearest in trial *j* beyond doubt; -1 if there is none."""
        scale, gap = work[_SCALE + j], margin * work[_INVERSE + j]
        if count <= WIDTH:
            return lowest_one(work, _LINES, scale, gap)
        if count <= 2 * WIDTH:
            return lowest_two(work, _LINES, scale, gap)
        return lowest_most(work, _LINES, scale, gap)

    @inlined
    def look_up(grid, work, numbers, words, farthest):  # type: ignore[no-untyped-def]
        """The point of each group in each trial, on the grid or the nearest."""
        own, counts, firsts, candidates, all_words = grid
        for k in range(groups):
            total = ZERO
            for i in range(group):
                total += work[_ROOT + k * group + i]
            margin = max(total * (farthest * farthest) * _MARGIN, _SMALL)
            start, first_lane = k * LANES, 0
            while first_lane < trials:
                point, end = numbers[start + first_lane], first_lane + 1
                while end < trials and numbers[start + end] == point:
                    end += 1
                count, first = counts[point], np.int64(firsts[point])
                if count == 0:
                    for j in range(first_lane, end):
                        words[start + j] = own[point]
                elif end - first_lane < 2 or count > _MOST * WIDTH:
                    for j in range(first_lane, end):
                        words[start + j] = find(grid, work, point, k, work[_SCALE + j])
                else:
                    set_lines_of(candidates, first, count, work, k)
                    low = lowest_of(work, count, end - 1, margin)
                    if low >= 0 and low == lowest_of(work, count, first_lane, margin):
                        for j in range(first_lane, end):
                            words[start + j] = all_words[first * WIDTH + low]
                    else:
                        for j in range(first_lane, end):
                            low = lowest_of(work, count, j, margin)
                            if low >= 0:
                                words[start + j] = all_words[first * WIDTH + low]
                            else:
                                words[start + j] = find(grid, work, point, k, work[_SCALE + j])
                first_lane = end

    @inlined
    def add_up(work, words, lanes):  # type: ignore[no-untyped-def]
        """The sums of each trial."""
        for j in range(lanes):
            work[_SUM_QX + j] = work[_SUM_Q2 + j] = ZERO
        for quad in range(quads):
            at, start, shift = 4 * quad, quad // per_group * LANES, np.uint32(quad % per_group * 4) * bits
            w, v, u, t = work[_W + at], work[_W + at + 1], work[_W + at + 2], work[_W + at + 3]
            wx, vx, ux, tx = w * work[_X + at], v * work[_X + at + 1], u * work[_X + at + 2], t * work[_X + at + 3]
            for j in range(lanes):
                word, sum_qx, sum_q2 = words[start + j] >> shift, work[_SUM_QX + j], work[_SUM_Q2 + j]
                a, b, c, d = value_in(word, 0), value_in(word, 1), value_in(word, 2), value_in(word, 3)
                work[_SUM_QX + j] = sum_qx + wx * a + vx * b + ux * c + tx * d
                work[_SUM_Q2 + j] = sum_q2 + w * a * a + v * b * b + u * c * c + t * d * d

    @inlined
    def fit(grid, work, numbers, words, scale, chosen):  # type: ignore[no-untyped-def]
        """Look groups up again with the scale that was found; returns the scale that fits their points."""
        own, counts = grid[0], grid[1]
        off = chosen < 0
        for k in range(groups):
            off |= chosen >= 0 and counts[numbers[k * LANES + chosen]] > 0
        if not (off and scale > ZERO) or (chosen < 0 and not fits_all):
            return scale
        inverse = ONE / scale
        for k in range(groups):
            if not fits_all and counts[numbers[k * LANES + chosen]] == 0:
                continue
            point, factor = np.int32(0), np.int32(1)
            for i in range(group):
                point += factor * level_of(inverse, work[_X + k * group + i])
                factor *= levels
            words[k * LANES] = own[point] if counts[point] == 0 else find(grid, work, point, k, scale)
        sum_qx = sum_q2 = ZERO
        for k in range(groups):
            for i in range(group):
                q, w = value_in(words[k * LANES], i), work[_W + k * group + i]
                sum_qx += w * work[_X + k * group + i] * q
                sum_q2 += w * q * q
        return sum_qx / sum_q2 if sum_q2 > ZERO else scale

    def run(blocks, weights, grid, work, numbers, words, scales, codes, signs, empty):  # type: ignore[no-untyped-def]
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
                work[_INVERSE + j] = (highest + F32(j - steps) * apart) / largest
            for j in range(lanes):
                work[_SCALE + j] = ONE / work[_INVERSE + j]
            find_points(work, numbers, lanes)
            look_up(grid, work, numbers, words, highest * work[_SCALE] + size)
            add_up(work, words, lanes)
            scale, best, chosen = largest / highest, ZERO, -1
            for j in range(trials):
                sum_qx, sum_q2 = work[_SUM_QX + j], work[_SUM_Q2 + j]
                if sum_q2 > ZERO and sum_qx * sum_qx > best * sum_q2:
                    scale, chosen = sum_qx / sum_q2, j
                    best = scale * sum_qx
            for k in range(groups):
                words[k * LANES] = words[k * LANES + chosen] if chosen >= 0 else grid[0][0]
            scale = fit(grid, work, numbers, words, scale, chosen)
            if scale < ZERO:
                scale = -scale
                for part in range(block // 8):
                    signs[b, part] = ~signs[b, part]
            for k in range(groups):
                codes[b, k] = words[k * LANES] >> np.uint32(16)
            scales[b] = scale

    return compiled(run)
