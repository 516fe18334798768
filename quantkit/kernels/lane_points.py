"""What the search for codes makes of the groups of a block, compiled by numba for the numbers of a grid.

Trials are lanes: they find the levels of every group and add the sums side by side; in between each group of each trial
is looked up, see ``lane_nearest.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from quantkit.kernels.arithmetic import Floats, Integers
from quantkit.kernels.formats import GridShape
from quantkit.kernels.grids import WORD_LEVELS
from quantkit.kernels.lane_common import ONE, ZERO, inlined, nearest_int
from quantkit.kernels.lane_nearest import CHUNKS, lowest, nearest, survey
from quantkit.kernels.lane_vectors import WIDTH

F32 = np.float32
Words = npt.NDArray[np.uint32]
# The arrays of a :class:`quantkit.kernels.lane_nearest.Table`.
Arrays = tuple[Words, Integers, Integers, npt.NDArray[np.int8], Words]

LANES = 32
# Offsets in the work array: what a block has (magnitudes, the weights of their errors and the roots of those), what its
# trials have, and lines.
X, W, ROOT, INVERSE, SCALE, SUM_QX, SUM_Q2, FITTED, _LINES = range(0, 9 * LANES, LANES)
WORK = 8 * LANES + 2 * CHUNKS * WIDTH
_HALF, _SMALL = F32(0.5), F32(1e-30)
# Twice what rounding changes in the difference of two errors and of two lines, in units of the largest possible error.
_MARGIN = F32(2.0**-17)


@dataclass(frozen=True)
class Steps:
    """Functions for use in compiled functions.

    Attributes:
        find_points: of the work array, lattice points (int32 [groups * LANES], written) and LANES: the lattice point of
            each group in each trial.
        look_up: of the arrays of the grid, the work array, lattice points, words (uint32 [groups * LANES], written),
            the number of trials, and the largest magnitude that a difference can have: the point of each group.
        add_up: of the work array, words and LANES: the sums of each trial.
        point_of: of the work array, a group and an inverse scale: the lattice point.
        nearest_to: of the arrays of the grid, the work array, a lattice point off the grid, a group and a scale: the
            word of the nearest neighbour.
        fit: of the work array and words, of which the first of each group counts, and a scale: the scale that fits
            these points, or the one given if none does.
    """

    find_points: Callable[[Floats, Integers, int], None]
    look_up: Callable[[Arrays, Floats, Integers, Words, int, F32], None]
    add_up: Callable[[Floats, Words, int], None]
    point_of: Callable[[Floats, int, F32], np.int32]
    nearest_to: Callable[[Arrays, Floats, np.int32, int, F32], np.uint32]
    fit: Callable[[Floats, Words, F32], F32]


@cache
def steps_of(shape: GridShape) -> Steps:
    """Compile the steps for a grid's numbers."""
    group, groups, bits = shape.group, shape.block // shape.group, np.uint32(WORD_LEVELS // shape.group)
    quads, per_group, levels_of_four = shape.block // 4, group // 4, np.int32(shape.levels**4)
    levels, top, mask = np.int32(shape.levels), np.int32(shape.levels - 1), np.uint32((1 << int(bits)) - 1)
    nearest_one, nearest_any = nearest(group, 1), nearest(group)
    survey_one, survey_two, survey_any = (survey(group, chunks) for chunks in (1, 2, 0))
    lowest_one, lowest_two, lowest_any = (lowest(chunks) for chunks in (1, 2, 0))

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
    def find_points(work: Floats, points: Integers, lanes: int) -> None:
        for quad in range(quads):
            at, start, later = 4 * quad, quad // per_group * LANES, quad % per_group > 0
            a, b, c, d = work[X + at], work[X + at + 1], work[X + at + 2], work[X + at + 3]
            for j in range(lanes):
                inverse = work[INVERSE + j]
                number = levels * level_of(inverse, d) + level_of(inverse, c)
                number = levels * (levels * number + level_of(inverse, b)) + level_of(inverse, a)
                points[start + j] = points[start + j] + number * levels_of_four if later else number

    @inlined
    def point_of(work: Floats, k: int, inverse: F32) -> np.int32:
        point, factor = np.int32(0), np.int32(1)
        for i in range(group):
            point += factor * level_of(inverse, work[X + k * group + i])
            factor *= levels
        return point

    @inlined
    def nearest_to(grid: Arrays, work: Floats, point: np.int32, k: int, scale: F32) -> np.uint32:
        _, counts, firsts, candidates, words = grid
        first, count, x, w = np.int64(firsts[point]), counts[point], X + k * group, ROOT + k * group
        if count <= WIDTH:
            near = nearest_one(candidates, first, count, work, x, w, scale)
        else:
            near = nearest_any(candidates, first, count, work, x, w, scale)
        word: np.uint32 = words[first * WIDTH + near]
        return word

    @inlined
    def lowest_at_ends(grid: Arrays, work: Floats, point: np.int32, k: int, ends: tuple[int, int], margin: F32) -> int:
        """The candidate that is the nearest in both trials beyond doubt; -1 if there is none."""
        _, counts, firsts, candidates, _ = grid
        first, count, x, w = np.int64(firsts[point]), counts[point], X + k * group, ROOT + k * group
        a, b = work[SCALE + ends[0]], work[SCALE + ends[1]]
        gap, other = margin * work[INVERSE + ends[0]], margin * work[INVERSE + ends[1]]
        low: int
        if count <= WIDTH:
            low = survey_one(candidates, first, count, work, x, w, _LINES, a, gap, b, other)
        elif count <= 2 * WIDTH:
            low = survey_two(candidates, first, count, work, x, w, _LINES, a, gap, b, other)
        else:
            low = survey_any(candidates, first, count, work, x, w, _LINES, a, gap, b, other)
        return low

    @inlined
    def lowest_at(work: Floats, count: np.int32, j: int, margin: F32) -> int:
        """The same for trial *j* alone."""
        scale, gap = work[SCALE + j], margin * work[INVERSE + j]
        low: int
        if count <= WIDTH:
            low = lowest_one(work, _LINES, count, scale, gap)
        elif count <= 2 * WIDTH:
            low = lowest_two(work, _LINES, count, scale, gap)
        else:
            low = lowest_any(work, _LINES, count, scale, gap)
        return low

    @inlined
    def look_up(grid: Arrays, work: Floats, points: Integers, words: Words, trials: int, farthest: F32) -> None:
        own, counts, firsts, _, all_words = grid
        for k in range(groups):
            total = ZERO
            for i in range(group):
                total += work[ROOT + k * group + i]
            margin = max(total * (farthest * farthest) * _MARGIN, _SMALL)
            start, begin = k * LANES, 0
            while begin < trials:
                point, end = points[start + begin], begin + 1
                while end < trials and points[start + end] == point:
                    end += 1
                count, first = counts[point], np.int64(firsts[point])
                if count == 0:
                    for j in range(begin, end):
                        words[start + j] = own[point]
                elif end - begin < 2:
                    words[start + begin] = nearest_to(grid, work, point, k, work[SCALE + begin])
                else:
                    low = lowest_at_ends(grid, work, point, k, (begin, end - 1), margin)
                    if low >= 0:
                        for j in range(begin, end):
                            words[start + j] = all_words[first * WIDTH + low]
                    else:
                        for j in range(begin, end):
                            low = lowest_at(work, count, j, margin)
                            if low >= 0:
                                words[start + j] = all_words[first * WIDTH + low]
                            else:
                                words[start + j] = nearest_to(grid, work, point, k, work[SCALE + j])
                begin = end

    @inlined
    def add_up(work: Floats, words: Words, lanes: int) -> None:
        for j in range(lanes):
            work[SUM_QX + j] = work[SUM_Q2 + j] = ZERO
        for quad in range(quads):
            at, start, shift = 4 * quad, quad // per_group * LANES, np.uint32(quad % per_group * 4) * bits
            w, v, u, t = work[W + at], work[W + at + 1], work[W + at + 2], work[W + at + 3]
            wx, vx, ux, tx = w * work[X + at], v * work[X + at + 1], u * work[X + at + 2], t * work[X + at + 3]
            for j in range(lanes):
                word, sum_qx, sum_q2 = words[start + j] >> shift, work[SUM_QX + j], work[SUM_Q2 + j]
                a, b, c, d = value_in(word, 0), value_in(word, 1), value_in(word, 2), value_in(word, 3)
                work[SUM_QX + j] = sum_qx + wx * a + vx * b + ux * c + tx * d
                work[SUM_Q2 + j] = sum_q2 + w * a * a + v * b * b + u * c * c + t * d * d

    @inlined
    def fit(work: Floats, words: Words, scale: F32) -> F32:
        sum_qx = sum_q2 = ZERO
        for k in range(groups):
            for i in range(group):
                q, w = value_in(words[k * LANES], i), work[W + k * group + i]
                sum_qx += w * work[X + k * group + i] * q
                sum_q2 += w * q * q
        return sum_qx / sum_q2 if sum_q2 > ZERO else scale

    return Steps(find_points, look_up, add_up, point_of, nearest_to, fit)
