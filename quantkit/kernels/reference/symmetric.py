"""The searches for the scales of Q3_K and Q6_K, which store no minima, in tensor operations on any device."""

from __future__ import annotations

import torch

from quantkit.kernels.arithmetic import divide, first_largest, nearest_int
from quantkit.kernels.formats import NOTHING, MovingSearch, TrialSearch
from quantkit.kernels.reference.arithmetic import ordered_sum


def trial_search(x: torch.Tensor, least: int, top: int, kind: TrialSearch) -> tuple[torch.Tensor, torch.Tensor]:
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
    scale = best = torch.zeros_like(largest)
    levels = torch.zeros_like(x, dtype=torch.int32)
    for step in (0, *range(-kind.steps, 0), *range(1, kind.steps + 1)):
        widened = float(torch.tensor(0.1) * step - least)
        tried = nearest_int(divide(-widened, largest)[:, None] * x).clamp(least, top)
        sum_lx, sum_l2 = ordered_sum(weighted * tried), ordered_sum(weights * tried * tried)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2) if step else torch.ones_like(best, dtype=torch.bool)
        fit = torch.where(sum_l2 != 0, sum_lx / sum_l2, torch.zeros_like(sum_lx))
        scale = torch.where(better, fit, scale)
        best = torch.where(better, fit * sum_lx, best)
        levels = torch.where(better[:, None], tried - least, levels)
    nothing = largest.abs() < NOTHING
    return scale.masked_fill(nothing, 0), levels.masked_fill(nothing[:, None], 0)


def moving_search(x: torch.Tensor, least: int, top: int, kind: MovingSearch) -> tuple[torch.Tensor, torch.Tensor]:
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
    largest = first_largest(x)
    weights = x * x
    weighted = weights * x
    levels = nearest_int(divide(least, largest)[:, None] * x).clamp(least, top)
    sum_lx, sum_l2 = ordered_sum(weighted * levels), ordered_sum(weights * levels * levels)
    moving = torch.ones_like(largest, dtype=torch.bool)
    for _ in range(kind.rounds):
        changed = torch.zeros_like(moving)
        for i in range(x.shape[1]):
            w, wx, level = weights[:, i], weighted[:, i], levels[:, i]
            without_lx, without_l2 = sum_lx - wx * level, sum_l2 - w * level * level
            moved = nearest_int(x[:, i] * without_l2 / without_lx).clamp(least, top)
            new_lx, new_l2 = without_lx + wx * moved, without_l2 + w * moved * moved
            better = moving & (without_lx > 0) & (moved != level) & (new_l2 > 0)
            better &= new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2
            levels[:, i] = torch.where(better, moved, level)
            sum_lx, sum_l2 = torch.where(better, new_lx, sum_lx), torch.where(better, new_l2, sum_l2)
            changed |= better
        moving &= changed  # a sub-block where nothing moved is done
    nothing = largest.abs() < NOTHING
    scale = torch.where(~nothing & (sum_l2 > 0), sum_lx / sum_l2, torch.zeros_like(sum_lx))
    return scale, (levels - least).masked_fill(nothing[:, None], 0)
