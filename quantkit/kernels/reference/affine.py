"""The search for the scales and minima of Q2_K, Q4_K and Q5_K, in tensor operations on any device.

A row is one sub-block. Sums run over its weights in ggml's order, and no product is contracted with a sum.
"""

from __future__ import annotations

import torch

from quantkit.kernels.arithmetic import divide, nearest_int
from quantkit.kernels.formats import AffineSearch
from quantkit.kernels.reference.arithmetic import ordered_sum, root


def search(x: torch.Tensor, top: int, kind: AffineSearch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the scale, minimum and levels of each sub-block (``make_qkx2_quants``).

    Args:
        x: float32, shape [sub-blocks, block].
        top: the highest level.
        kind: the search's constants.

    Returns:
        Scales, float32 [sub-blocks]; negated minima, float32 [sub-blocks]; levels 0..top, int32 [sub-blocks, block].
    """
    weights = x.abs() if kind.absolute else x.abs() + root(ordered_sum(x * x) / x.shape[1])[:, None]
    start, high = x.amin(1).clamp(max=0), x.amax(1)
    sum_w, sum_x = ordered_sum(weights), ordered_sum(weights * x)

    def levels_at(inverse: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return nearest_int(inverse[:, None] * (x - low[:, None])).clamp(0, top)

    def error(scale: torch.Tensor, low: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        difference = scale[:, None] * levels + low[:, None] - x
        return ordered_sum(weights * (difference.abs() if kind.absolute else difference * difference))

    low, inverse = start, divide(top, high - start)
    scale, levels = divide(1, inverse), levels_at(inverse, start)
    best = error(scale, low, levels)
    for step in range(kind.steps + 1):
        # The sum is float32 in C, term by term.
        widened = torch.tensor(kind.first) + torch.tensor(0.1) * step + top
        tried = levels_at(divide(float(widened), high - low), low)
        weighted = weights * tried
        sum_l, sum_l2, sum_xl = ordered_sum(weighted), ordered_sum(weighted * tried), ordered_sum(weighted * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = new_low > 0
        new_scale = torch.where(above, sum_xl / sum_l2, new_scale)
        new_low = torch.where(above, torch.zeros_like(new_low), new_low)
        new_error = error(new_scale, new_low, tried)
        better = (determinant > 0) & (new_error < best)
        best = torch.where(better, new_error, best)
        scale = torch.where(better, new_scale, scale)
        levels = torch.where(better[:, None], tried, levels)
        low = torch.where(better, new_low, low)  # the following trials start from it
    flat = high == start
    scale, low = torch.where(flat, torch.zeros_like(scale), scale), torch.where(flat, start, low)
    return scale, -low, torch.where(flat[:, None], torch.zeros_like(levels), levels)
