"""The fit of values to multiples of a unit, in numpy operations: ggml's ``make_qp_quants``."""

from __future__ import annotations

import numpy as np

from quantkit.kernels.arithmetic import Floats, Integers, nearest_int
from quantkit.kernels.formats import NOTHING
from quantkit.kernels.reference.arithmetic import ordered_sum


def find_units(x: Floats, weights: Floats, most: int) -> Floats:
    """Units, float32 [n]; zero for values without one above zero.

    Args:
        x: values, float32 [n, block].
        weights: of their errors, float32 [n, block].
        most: the highest multiple.
    """
    largest = x.max(axis=1)
    best, inverse = np.full_like(largest, np.inf), np.float32(most) / largest
    for step in (0, -4, -3, -2, -1, 1, 2, 3, 4):
        tried = (np.float32(0.1) * np.float32(step) + np.float32(most)) / largest
        multiples = nearest_int(tried[:, None] * x)
        # The first are bytes to ggml: those below zero wrap.
        multiples = multiples & 255 if step == 0 else np.minimum(multiples, most)
        differences = x - (np.float32(1) / tried)[:, None] * multiples.astype(np.float32)
        error = ordered_sum(weights * differences * differences)
        better = error < best
        best, inverse = np.where(better, error, best), np.where(better, tried, inverse)
    units = _move(x, weights, np.minimum(nearest_int(inverse[:, None] * x), most), most)
    return np.where(largest < np.float32(NOTHING), np.float32(0), units)


def _move(x: Floats, weights: Floats, first: Integers, most: int) -> Floats:
    """The units after each value has taken the multiple with which the others fit best, five times over."""
    start = first.astype(np.float32)
    sum_lx, sum_l2 = ordered_sum(weights * x * start), ordered_sum(weights * start * start)
    multiples = (first & 255).astype(np.float32)
    for _ in range(5):
        for i in range(x.shape[1]):
            w, v, level = weights[:, i], x[:, i], multiples[:, i]
            lx, l2 = sum_lx - w * v * level, sum_l2 - w * level * level
            found = np.minimum(nearest_int((v * l2 / lx).astype(np.float32)), most)
            moved = found.astype(np.float32)
            new_lx, new_l2 = lx + w * v * moved, l2 + w * moved * moved
            better = (lx > 0) & (l2 > 0) & (moved != level) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
            multiples[:, i] = np.where(better, (found & 255).astype(np.float32), level)
            sum_lx, sum_l2 = np.where(better, new_lx, sum_lx), np.where(better, new_l2, sum_l2)
    return np.where(sum_l2 > 0, sum_lx / sum_l2, np.float32(0))
