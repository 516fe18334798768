"""The search for the scales and minima of Q2_K, Q4_K and Q5_K, in numpy operations.

A row is one sub-block. Sums run over its weights in ggml's order, and no product is contracted with a sum.
"""

from __future__ import annotations

import numpy as np

from quantkit.kernels.arithmetic import Floats, Integers, nearest_int, quiet
from quantkit.kernels.reference.arithmetic import ordered_sum
from quantkit.kernels.searches import AffineSearch


def search(x: Floats, top: int, kind: AffineSearch) -> tuple[Floats, Floats, Integers]:
    """Find the scale, minimum and levels of each sub-block (``make_qkx2_quants``).

    Args:
        x: float32, shape [sub-blocks, block].
        top: the highest level.
        kind: the search's constants.

    Returns:
        Scales, float32 [sub-blocks]; negated minima, float32 [sub-blocks]; levels 0..top, int32 [sub-blocks, block].
    """
    with quiet():
        return _search(x, top, kind)


def _search(x: Floats, top: int, kind: AffineSearch) -> tuple[Floats, Floats, Integers]:
    sizes = np.abs(x)
    weights = sizes if kind.absolute else sizes + np.sqrt(ordered_sum(x * x) / np.float32(x.shape[1]))[:, None]
    start, high = np.minimum(x.min(axis=1), np.float32(0)), x.max(axis=1)
    sum_w, sum_x = ordered_sum(weights), ordered_sum(weights * x)

    def levels_at(inverse: Floats, low: Floats) -> Floats:
        return np.clip(nearest_int(inverse[:, None] * (x - low[:, None])), 0, top).astype(np.float32)

    def error(scale: Floats, low: Floats, levels: Floats) -> Floats:
        difference = scale[:, None] * levels + low[:, None] - x
        return ordered_sum(weights * (np.abs(difference) if kind.absolute else difference * difference))

    low, inverse = start, np.float32(top) / (high - start)
    scale, levels = np.float32(1) / inverse, levels_at(inverse, start)
    best = error(scale, low, levels)
    for step in range(kind.steps + 1):
        # The sum is float32 in C, term by term.
        widened = np.float32(kind.first) + np.float32(0.1) * np.float32(step) + np.float32(top)
        tried = levels_at(widened / (high - low), low)
        weighted = weights * tried
        sum_l, sum_l2, sum_xl = ordered_sum(weighted), ordered_sum(weighted * tried), ordered_sum(weighted * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale: Floats = ((sum_w * sum_xl - sum_x * sum_l) / determinant).astype(np.float32)
        new_low: Floats = ((sum_l2 * sum_x - sum_l * sum_xl) / determinant).astype(np.float32)
        above = new_low > 0
        new_scale = np.where(above, sum_xl / sum_l2, new_scale).astype(np.float32)
        new_low = np.where(above, np.float32(0), new_low).astype(np.float32)
        new_error = error(new_scale, new_low, tried)
        better = (determinant > 0) & (new_error < best)
        best = np.where(better, new_error, best)
        scale = np.where(better, new_scale, scale)
        levels = np.where(better[:, None], tried, levels)
        low = np.where(better, new_low, low)  # the following trials start from it
    flat = high == start
    scale, low = np.where(flat, np.float32(0), scale), np.where(flat, start, low)
    return scale, -low, np.where(flat[:, None], 0, levels).astype(np.int32)
