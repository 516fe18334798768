"""C's arithmetic in tensor operations, as far as only the searches need it."""

from __future__ import annotations

import torch


def root(values: torch.Tensor) -> torch.Tensor:
    """Square roots, rounded once.

    On a processor torch uses MKL, which is an ulp off for a fifth of all numbers. Rounding twice, through float64, is
    exact: no square root of a float32 is close enough to the midpoint of two others.
    """
    return values.double().sqrt().float()


def ordered_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum rows, float32 [n, columns] to [n], one column after the other as C does."""
    total = values[:, 0].clone()
    for column in range(1, values.shape[1]):
        total += values[:, column]
    return total
