"""The search for scales and minima of Q2_K, Q4_K and Q5_K, as plain tensor operations on any device.

This is the specification that the kernels for graphics cards and processors are held to, and in turn it is held to
ggml (``make_qkx2_quants`` of ggml-quants.c), byte for byte. A row is one sub-block; sums run over its weights in
ggml's order, and nothing is contracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantkit.kernels.arithmetic import divide, nearest_int, ordered_sum, root


@dataclass(frozen=True)
class Affine:
    """How one of these formats searches.

    Attributes:
        block: weights in a sub-block.
        top: the highest level.
        first: the first trial widens the range of levels by this.
        steps: trials after the first, each 0.1 further.
        absolute: errors and weights are magnitudes, not squares.
    """

    block: int
    top: int
    first: float
    steps: int
    absolute: bool


Q2_K = Affine(16, 3, -0.5, 15, True)
Q4_K = Affine(32, 15, -1.0, 20, False)
Q5_K = Affine(32, 31, -0.5, 15, False)


def search(x: torch.Tensor, kind: Affine) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scale, minimum and levels of each sub-block.

    Args:
        x: float32, shape [sub-blocks, block].
        kind: the format.

    Returns:
        Scales [sub-blocks], minima with their sign turned [sub-blocks], levels [sub-blocks, block] as int32.
    """
    weights = x.abs() if kind.absolute else x.abs() + root(ordered_sum(x * x) / kind.block)[:, None]
    start, high = x.amin(1).clamp(max=0), x.amax(1)
    sum_w, sum_x = ordered_sum(weights), ordered_sum(weights * x)

    def levels_at(inverse: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return nearest_int(inverse[:, None] * (x - low[:, None])).clamp(0, kind.top)

    def error(scale: torch.Tensor, low: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        difference = scale[:, None] * levels + low[:, None] - x
        return ordered_sum(weights * (difference.abs() if kind.absolute else difference * difference))

    low, inverse = start, divide(kind.top, high - start)
    scale, levels = divide(1, inverse), levels_at(inverse, start)
    best = error(scale, low, levels)
    for step in range(kind.steps + 1):
        # The sum is float32 in C, term by term.
        widened = torch.tensor(kind.first) + torch.tensor(0.1) * step + kind.top
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
