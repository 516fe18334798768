"""C's arithmetic in numpy operations, as far as only the searches need it."""

from __future__ import annotations

from quantkit.kernels.arithmetic import Floats


def ordered_sum(values: Floats) -> Floats:
    """Sum rows, float32 [n, columns] to [n], one column after the other as C does."""
    total = values[:, 0].copy()
    for column in range(1, values.shape[1]):
        total += values[:, column]
    return total
