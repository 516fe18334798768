"""The search of IQ1 for the levels of a block, compiled by numba: all ways to split its sorted weights into three.

Blocks are lanes. Each has tables of what is below every place in the order, and a split's sums are made of a few
entries of these. Splits are tried in ggml's order, because it compares each with the best before it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from quantkit.kernels.arithmetic import Floats, Integers
from quantkit.kernels.lane_common import ZERO, inlined
from quantkit.kernels.searches import LEVEL_MOVE

F32 = np.float32
LANES = 32
# (work, ranks, best, lanes), see search.
Search = Callable[[Floats, Integers, Integers, int], None]
_Step = Callable[[Floats, int], None]
_Attempt = Callable[[Floats, Integers, int], None]
_LOWEST = F32(np.finfo(np.float32).min)
_MIDDLE, _HIGH, _LOW = F32(LEVEL_MOVE), F32(1 + LEVEL_MOVE), F32(1 - LEVEL_MOVE)


def scale_at(block: int) -> int:
    """Where the scales that were found are in the work array."""
    return 2 * block * LANES


def free_at(block: int) -> int:
    """What is behind the part of the work array that the search uses: at most thirteen tables are."""
    return (2 * block + 2 + 13 * (block + 1)) * LANES


@cache
def search(block: int, parts: int) -> Search:
    """Compile the search.

    Returns:
        A function of a work array, float32 [free_at]; what it writes, int32 [block * LANES] and int32 [LANES]; and
        the number LANES. The work array begins with values (value i of lane j at i * LANES + j) and, behind all of
        these, the weights of their errors; the scale of each lane is written behind those. The first that it writes
        are the ranks of values in the order; equal ones stay as they are. The second is the best split: the two places
        where the next level begins and what is moved, as ``(first * 64 + second) * 4 + moves``; -1 if there is none.
        ``moves`` has a bit for each part, the last part's the lowest, which is set if levels are moved down.
    """
    size, entries, start = block // parts, (block + 1) * LANES, (2 * block + 2) * LANES
    scale, score = scale_at(block), scale_at(block) + LANES
    find_terms, attempt = (_one_part if parts == 1 else _two_parts)(block)

    @inlined
    def rank(work: Floats, ranks: Integers, lanes: int) -> None:
        for at in range(block * lanes):
            ranks[at] = 0
        for i in range(1, block):
            for k in range(i):
                for j in range(lanes):
                    after = np.int32(work[k * LANES + j] <= work[i * LANES + j])
                    ranks[i * LANES + j] += after
                    ranks[k * LANES + j] += np.int32(1) - after

    @inlined
    def add_up(work: Floats, ranks: Integers, lanes: int) -> None:
        """The sums of weighted values and of weights below every place, of each part: two tables for each."""
        for at in range(start, start + 2 * parts * entries):
            work[at] = ZERO
        for i in range(block):
            table = start + (2 * entries if i >= size else 0)
            for j in range(lanes):
                at, w = table + (ranks[i * LANES + j] + 1) * LANES + j, work[(block + i) * LANES + j]
                work[at] = w * work[i * LANES + j]
                work[at + entries] = w
        for table in range(2 * parts):
            for place in range(1, block + 1):
                at = start + table * entries + place * LANES
                for j in range(lanes):
                    work[at + j] = work[at - LANES + j] + work[at + j]

    @inlined
    def run(work: Floats, ranks: Integers, best: Integers, lanes: int) -> None:
        rank(work, ranks, lanes)
        add_up(work, ranks, lanes)
        find_terms(work, lanes)
        for j in range(lanes):
            work[scale + j], work[score + j], best[j] = ZERO, _LOWEST, -1
        attempt(work, best, lanes)

    result: Search = run
    return result


@inlined
def _better(sum_qx: F32, sum_q2: F32, score: F32) -> np.bool_:
    return (sum_q2 > ZERO) & (sum_qx * sum_qx > score * sum_q2)


def _one_part(block: int) -> tuple[_Step, _Attempt]:
    """The sums of IQ1_S: three products, of which those of the outer levels are in tables."""
    entries, start = (block + 1) * LANES, (2 * block + 2) * LANES
    scale_start, score_start = scale_at(block), scale_at(block) + LANES
    x, w, x_up, x_down, w_up, w_down = range(start, start + 6 * entries, entries)
    x_up_high, x_down_high, w_up_high, w_down_high = range(start + 6 * entries, start + 10 * entries, entries)

    @inlined
    def find_terms(work: Floats, lanes: int) -> None:
        for place in range(block + 1):
            at, last = place * LANES, block * LANES
            for j in range(lanes):
                low_x, low_w = work[x + at + j], work[w + at + j]
                high_x, high_w = work[x + last + j] - low_x, work[w + last + j] - low_w
                work[x_up + at + j], work[x_down + at + j] = low_x * -_LOW, low_x * -_HIGH
                work[w_up + at + j], work[w_down + at + j] = low_w * _LOW * _LOW, low_w * _HIGH * _HIGH
                work[x_up_high + at + j], work[x_down_high + at + j] = high_x * _HIGH, high_x * _LOW
                work[w_up_high + at + j], work[w_down_high + at + j] = high_w * _HIGH * _HIGH, high_w * _LOW * _LOW

    @inlined
    def attempt(work: Floats, best: Integers, lanes: int) -> None:
        for first in range(block + 1):
            for second in range(first, block + 1):
                a, b, split = first * LANES, second * LANES, np.int32((first * 64 + second) * 4)
                for j in range(lanes):
                    scale, score, chosen = work[scale_start + j], work[score_start + j], best[j]
                    mid_x = (work[x + b + j] - work[x + a + j]) * _MIDDLE
                    mid_w = (work[w + b + j] - work[w + a + j]) * _MIDDLE * _MIDDLE
                    sum_qx = work[x_up + a + j] + mid_x + work[x_up_high + b + j]
                    sum_q2 = work[w_up + a + j] + mid_w + work[w_up_high + b + j]
                    better, tried = _better(sum_qx, sum_q2, score), sum_qx / sum_q2
                    scale, score = (tried if better else scale), (tried * sum_qx if better else score)
                    chosen = split if better else chosen
                    sum_qx = work[x_down + a + j] - mid_x + work[x_down_high + b + j]
                    sum_q2 = work[w_down + a + j] + mid_w + work[w_down_high + b + j]
                    better, tried = _better(sum_qx, sum_q2, score), sum_qx / sum_q2
                    work[scale_start + j] = tried if better else scale
                    work[score_start + j] = tried * sum_qx if better else score
                    best[j] = split + np.int32(1) if better else chosen

    return find_terms, attempt


def _two_parts(block: int) -> tuple[_Step, _Attempt]:
    """The sums of IQ1_M: what the highest level gives for all weights, less what is below each of the two places."""
    entries, start = (block + 1) * LANES, (2 * block + 2) * LANES
    scale_start, score_start = scale_at(block), scale_at(block) + LANES
    # Of each half: sums, then the terms of the first place and of the second, moved up and down, then totals.
    x0, w0, x1, w1, up0, up1, down0, down1 = range(start, start + 8 * entries, entries)
    later_up0, later_up1, later_down0, later_down1, totals = range(start + 8 * entries, start + 13 * entries, entries)
    # What a square loses from a level to the one below it.
    high_up, low_up = _HIGH * _HIGH - _MIDDLE * _MIDDLE, _LOW * _LOW - _MIDDLE * _MIDDLE

    @inlined
    def find_terms(work: Floats, lanes: int) -> None:
        last = block * LANES
        for j in range(lanes):
            x_of, y_of = work[x0 + last + j], work[x1 + last + j]
            work[totals + j], work[totals + LANES + j] = x_of * _HIGH, x_of * _LOW
            work[totals + 2 * LANES + j], work[totals + 3 * LANES + j] = y_of * _HIGH, y_of * _LOW
        for place in range(block + 1):
            at = place * LANES
            for j in range(lanes):
                w, v, all_w, all_v = work[w0 + at + j], work[w1 + at + j], work[w0 + last + j], work[w1 + last + j]
                work[up0 + at + j] = all_w * _HIGH * _HIGH + w * low_up
                work[up1 + at + j] = all_v * _HIGH * _HIGH + v * low_up
                work[down0 + at + j] = all_w * _LOW * _LOW + w * high_up
                work[down1 + at + j] = all_v * _LOW * _LOW + v * high_up
                work[later_up0 + at + j], work[later_up1 + at + j] = w * -high_up, v * -high_up
                work[later_down0 + at + j], work[later_down1 + at + j] = w * -low_up, v * -low_up

    @inlined
    def attempt(work: Floats, best: Integers, lanes: int) -> None:
        for first in range(block + 1):
            for second in range(first, block + 1):
                a, b, split = first * LANES, second * LANES, np.int32((first * 64 + second) * 4)
                for j in range(lanes):
                    scale, score, chosen = work[scale_start + j], work[score_start + j], best[j]
                    below0, below1 = work[x0 + a + j] + work[x0 + b + j], work[x1 + a + j] + work[x1 + b + j]
                    qx_up0, qx_down0 = work[totals + j] - below0, work[totals + LANES + j] - below0
                    qx_up1, qx_down1 = work[totals + 2 * LANES + j] - below1, work[totals + 3 * LANES + j] - below1
                    q2_up0 = work[up0 + a + j] + work[later_up0 + b + j]
                    q2_up1 = work[up1 + a + j] + work[later_up1 + b + j]
                    q2_down0 = work[down0 + a + j] + work[later_down0 + b + j]
                    q2_down1 = work[down1 + a + j] + work[later_down1 + b + j]
                    sum_qx, sum_q2 = qx_up0 + qx_up1, q2_up0 + q2_up1
                    better, tried = _better(sum_qx, sum_q2, score), sum_qx / sum_q2
                    scale, score = (tried if better else scale), (tried * sum_qx if better else score)
                    chosen = split if better else chosen
                    sum_qx, sum_q2 = qx_up0 + qx_down1, q2_up0 + q2_down1
                    better, tried = _better(sum_qx, sum_q2, score), sum_qx / sum_q2
                    scale, score = (tried if better else scale), (tried * sum_qx if better else score)
                    chosen = split + np.int32(1) if better else chosen
                    sum_qx, sum_q2 = qx_down0 + qx_up1, q2_down0 + q2_up1
                    better, tried = _better(sum_qx, sum_q2, score), sum_qx / sum_q2
                    scale, score = (tried if better else scale), (tried * sum_qx if better else score)
                    chosen = split + np.int32(2) if better else chosen
                    sum_qx, sum_q2 = qx_down0 + qx_down1, q2_down0 + q2_down1
                    better, tried = _better(sum_qx, sum_q2, score), sum_qx / sum_q2
                    work[scale_start + j] = tried if better else scale
                    work[score_start + j] = tried * sum_qx if better else score
                    best[j] = split + np.int32(3) if better else chosen

    return find_terms, attempt
