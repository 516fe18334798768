"""Rows merged and rounded: compiled where that pays, else in numpy operations; the bits are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantkit.checkpoint.dtypes import BF16, BY_TYPE, TYPE_OF, Array, Floats, to_float32
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lanes
from quantkit.kernels.encode import WORTH_NUMBA
from quantkit.kernels.low_rank import Pair, merged
from quantkit.kernels.rounding import OVERFLOW, largest_magnitude, round_to


@dataclass(frozen=True, eq=False)
class Rounded:
    """Merged and rounded rows.

    Attributes:
        largest: the largest magnitude before rounding; NaN if a value is NaN.
        bits: the rows in the outtype; None if a value would round to infinity, or is not finite.
        floats: the same as float32.
    """

    largest: float
    bits: Array | None
    floats: Floats


def round_rows(stored: Array, pairs: Sequence[Pair], outtype: GGMLType) -> Rounded:
    """Add the products of *pairs* to rows, and round the sums once.

    Args:
        stored: F32, F16 or BF16, shape [n, columns], or [n].
        pairs: float32 factors, left [n, r] and right [r, columns], added in this order.
        outtype: F32, F16 or BF16.
    """
    if stored.ndim == 2 and stored.size >= WORTH_NUMBA and lanes.available():
        return _compiled(np.ascontiguousarray(stored), pairs, outtype)
    floats = merged(stored, pairs)
    largest = largest_magnitude(floats)
    if not largest < OVERFLOW[outtype]:
        return Rounded(largest, None, floats)
    bits = round_to(floats, outtype)
    return Rounded(largest, bits, to_float32(bits))


def _compiled(stored: Array, pairs: Sequence[Pair], outtype: GGMLType) -> Rounded:
    from quantkit.kernels import lane_rows

    lefts, rights = ([pair[side] for pair in pairs] for side in (0, 1))
    left = lefts[0] if len(pairs) == 1 else np.concatenate([np.empty((len(stored), 0), np.float32), *lefts], axis=1)
    right = rights[0] if len(pairs) == 1 else np.concatenate([np.empty((0, stored.shape[1]), np.float32), *rights])
    floats, bits = np.empty(stored.shape, dtype=np.float32), np.empty(stored.shape, dtype=BY_TYPE[outtype])
    run = lane_rows.carry(TYPE_OF[stored.dtype], outtype)
    scratch = np.empty(lane_rows.BLOCK, dtype=np.float32)
    words = run(_words(stored), np.ascontiguousarray(left), right, floats, _words(bits), scratch)
    largest = float(np.array(words, dtype=np.int32).view(np.float32))
    return Rounded(largest, bits if largest < OVERFLOW[outtype] else None, floats)


def _words(values: Array) -> Array:
    """What compiled code reads and writes: 16 bits as integers."""
    return values.view(np.uint16) if values.dtype in (BF16, np.float16) else values
