"""What a merge of low rank is, value for value: the order of the sum is part of the promise."""

from __future__ import annotations

import torch


def low_rank_sum(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """``x = w; for k: x = x + (left[i, k] * scale) * right[k, j]``: float32, every operation rounded.

    Args:
        weight: shape [out, in], of any float type.
        left: float32, shape [out, r].
        right: float32, shape [r, in].
        scale: the adapter's scaling.
    """
    total, scaled = weight.float(), left * torch.tensor(scale, dtype=torch.float32)
    for k in range(len(right)):
        product = scaled[:, k, None] * right[k]
        total = total + product
    return total
