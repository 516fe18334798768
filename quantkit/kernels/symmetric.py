"""The searches for scales of Q3_K and Q6_K, which have no minima, as plain tensor operations on any device.

The specification for the faster kernels, held to ggml (``make_q3_quants``, ``make_qx_quants``) byte for byte.
"""

from __future__ import annotations

import torch

from quantkit.kernels.arithmetic import divide, first_largest, nearest_int, ordered_sum

# Below this a block is all zeros to ggml (GROUP_MAX_EPS).
NOTHING = 1e-15


def search_6(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and levels of each sub-block of Q6_K.

    Args:
        x: float32, shape [sub-blocks, 16].

    Returns:
        Scales [sub-blocks], levels of 0..63 [sub-blocks, 16] as int32.
    """
    largest = first_largest(x)
    weights = x * x
    weighted = weights * x
    scale = best = torch.zeros_like(largest)
    levels = torch.zeros_like(x, dtype=torch.int32)
    for step in (0, *range(-9, 0), *range(1, 10)):
        widened = float(torch.tensor(0.1) * step + 32)
        tried = nearest_int(divide(-widened, largest)[:, None] * x).clamp(-32, 31)
        sum_lx, sum_l2 = ordered_sum(weighted * tried), ordered_sum(weights * tried * tried)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2) if step else torch.ones_like(best, dtype=torch.bool)
        fit = torch.where(sum_l2 != 0, sum_lx / sum_l2, torch.zeros_like(sum_lx))
        scale = torch.where(better, fit, scale)
        best = torch.where(better, fit * sum_lx, best)
        levels = torch.where(better[:, None], tried + 32, levels)
    nothing = largest.abs() < NOTHING
    return scale.masked_fill(nothing, 0), levels.masked_fill(nothing[:, None], 0)


def search_3(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and levels of each sub-block of Q3_K: one level after the other is moved, while that helps.

    Args:
        x: float32, shape [sub-blocks, 16].

    Returns:
        Scales [sub-blocks], levels of 0..7 [sub-blocks, 16] as int32.
    """
    largest = first_largest(x)
    weights = x * x
    weighted = weights * x
    levels = nearest_int(divide(-4, largest)[:, None] * x).clamp(-4, 3)
    sum_lx, sum_l2 = ordered_sum(weighted * levels), ordered_sum(weights * levels * levels)
    moving = torch.ones_like(largest, dtype=torch.bool)
    for _ in range(5):
        changed = torch.zeros_like(moving)
        for i in range(x.shape[1]):
            w, wx, level = weights[:, i], weighted[:, i], levels[:, i]
            without_lx, without_l2 = sum_lx - wx * level, sum_l2 - w * level * level
            moved = nearest_int(x[:, i] * without_l2 / without_lx).clamp(-4, 3)
            new_lx, new_l2 = without_lx + wx * moved, without_l2 + w * moved * moved
            better = moving & (without_lx > 0) & (moved != level) & (new_l2 > 0)
            better &= new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2
            levels[:, i] = torch.where(better, moved, level)
            sum_lx, sum_l2 = torch.where(better, new_lx, sum_lx), torch.where(better, new_l2, sum_l2)
            changed |= better
        moving &= changed  # a sub-block in which nothing moved has ended
    nothing = largest.abs() < NOTHING
    scale = torch.where(~nothing & (sum_l2 > 0), sum_lx / sum_l2, torch.zeros_like(sum_lx))
    return scale, (levels + 4).masked_fill(nothing[:, None], 0)
