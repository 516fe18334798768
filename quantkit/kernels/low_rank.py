"""The sum of a weight and a product of factors, in one order on every device."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from quantkit.checkpoint.dtypes import Array, Floats, to_float32

Pair = tuple[Floats, Floats]


def add_low_rank(rows: Floats, left: Floats, right: Floats) -> Floats:
    """``rows += left @ right``, summed in the order of the rank (Hu et al. 2021, arXiv:2106.09685, equation 3).

    ``x = w; for k: x = x + left[i, k] * right[k, j]`` in float32, every product and every sum rounded: the CUDA kernels
    and the compiled lanes do the same, so the bytes of a build do not depend on where it ran.

    Args:
        rows: shape [n, columns]; changed in place.
        left: shape [n, r], the scaling multiplied in.
        right: shape [r, columns].
    """
    product = np.empty_like(rows)
    for k in range(right.shape[0]):
        np.multiply(left[:, k, None], right[k], out=product)
        rows += product
    return rows


def merged(stored: Array, pairs: Iterable[Pair]) -> Floats:
    """Stored rows as float32 in memory of their own, with the product of every pair added in turn.

    Args:
        stored: F32, F16 or BF16, shape [n, columns]; or [n], without pairs.
        pairs: left and right, as :func:`add_low_rank` takes them.
    """
    rows = to_float32(stored)
    if rows is stored:
        rows = rows.copy()
    for left, right in pairs:
        add_low_rank(rows, left, right)
    return rows
