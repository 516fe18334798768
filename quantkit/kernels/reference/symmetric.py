"""The searches for the scales of Q3_K and Q6_K, which store no minima, in numpy operations."""

from __future__ import annotations

import numpy as np

from quantkit.kernels.arithmetic import Floats, Integers, first_largest, nearest_int, quiet
from quantkit.kernels.formats import NOTHING
from quantkit.kernels.reference.arithmetic import ordered_sum
from quantkit.kernels.searches import MovingSearch, TrialSearch


def trial_search(x: Floats, least: int, top: int, kind: TrialSearch) -> tuple[Floats, Integers]:
    """Find the scale and levels of each sub-block by trials (``make_qx_quants``).

    Args:
        x: float32, shape [sub-blocks, block].
        least: the lowest level.
        top: the highest level.
        kind: the search's constants.

    Returns:
        Scales, float32 [sub-blocks]; levels less *least*, int32 [sub-blocks, block].
    """
    largest = first_largest(x)
    weights = x * x
    weighted = weights * x
    scale = best = np.zeros_like(largest)
    levels = np.zeros(x.shape, dtype=np.int32)
    for step in (0, *range(-kind.steps, 0), *range(1, kind.steps + 1)):
        widened = np.float32(0.1) * np.float32(step) - np.float32(least)
        with quiet():
            tried = np.clip(nearest_int((-widened / largest)[:, None] * x), least, top)
            floats = tried.astype(np.float32)
            sum_lx, sum_l2 = ordered_sum(weighted * floats), ordered_sum(weights * floats * floats)
            fit = np.where(sum_l2 != 0, sum_lx / sum_l2, np.float32(0))
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2) if step else np.ones(best.shape, dtype=bool)
        scale = np.where(better, fit, scale)
        best = np.where(better, fit * sum_lx, best)
        levels = np.where(better[:, None], tried - least, levels)
    nothing = np.abs(largest) < np.float32(NOTHING)
    return np.where(nothing, np.float32(0), scale), np.where(nothing[:, None], 0, levels)


def moving_search(x: Floats, least: int, top: int, kind: MovingSearch) -> tuple[Floats, Integers]:
    """Find the scale and levels of each sub-block by moving one level after the other while that reduces the error.

    That is ``make_q3_quants``.

    Args:
        x: float32, shape [sub-blocks, block].
        least: the lowest level.
        top: the highest level.
        kind: the search's constants.

    Returns:
        Scales, float32 [sub-blocks]; levels less *least*, int32 [sub-blocks, block].
    """
    with quiet():
        return _moving_search(x, least, top, kind)


def _moving_search(x: Floats, least: int, top: int, kind: MovingSearch) -> tuple[Floats, Integers]:
    largest = first_largest(x)
    weights = x * x
    weighted = weights * x
    inverse = np.float32(least) / largest
    levels = np.clip(nearest_int(inverse[:, None] * x), least, top).astype(np.float32)
    sum_lx, sum_l2 = ordered_sum(weighted * levels), ordered_sum(weights * levels * levels)
    moving = np.ones(largest.shape, dtype=bool)
    for _ in range(kind.rounds):
        changed = np.zeros_like(moving)
        for i in range(x.shape[1]):
            w, wx, level = weights[:, i], weighted[:, i], levels[:, i]
            without_lx, without_l2 = sum_lx - wx * level, sum_l2 - w * level * level
            target = (x[:, i] * without_l2 / without_lx).astype(np.float32)
            moved = np.clip(nearest_int(target), least, top).astype(np.float32)
            new_lx, new_l2 = without_lx + wx * moved, without_l2 + w * moved * moved
            better = moving & (without_lx > 0) & (moved != level) & (new_l2 > 0)
            better &= new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2
            levels[:, i] = np.where(better, moved, level)
            sum_lx, sum_l2 = np.where(better, new_lx, sum_lx), np.where(better, new_l2, sum_l2)
            changed |= better
        moving &= changed  # a sub-block where nothing moved is done
    nothing = np.abs(largest) < np.float32(NOTHING)
    scale = np.where(~nothing & (sum_l2 > 0), sum_lx / sum_l2, np.float32(0))
    return scale, np.where(nothing[:, None], 0, levels - np.float32(least)).astype(np.int32)
