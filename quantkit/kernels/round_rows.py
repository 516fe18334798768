"""Rows merged and rounded: compiled where that pays, else in numpy operations; the bits are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantkit.checkpoint.dtypes import BY_TYPE, TYPE_OF, Array, Floats, to_float32
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lanes
from quantkit.kernels.encode import WORTH_NUMBA
from quantkit.kernels.kept import Kept
from quantkit.kernels.low_rank import Pair, merged
from quantkit.kernels.one_call import factors, words
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


def round_rows(stored: Array, pairs: Sequence[Pair], outtype: GGMLType, memory: Kept | None = None) -> Rounded:
    """Add the products of *pairs* to rows, and round the sums once.

    Args:
        stored: F32, F16 or BF16, shape [n, columns], or [n].
        pairs: float32 factors, left [n, r] and right [r, columns], added in this order.
        outtype: F32, F16 or BF16.
        memory: where large results may lie; they are valid until it is used again.
    """
    if stored.ndim == 2 and stored.size >= WORTH_NUMBA and lanes.available():
        return _compiled(np.ascontiguousarray(stored), pairs, outtype, memory or Kept())
    floats = merged(stored, pairs)
    largest = largest_magnitude(floats)
    if not largest < OVERFLOW[outtype]:
        return Rounded(largest, None, floats)
    bits = round_to(floats, outtype)
    return Rounded(largest, bits, to_float32(bits))


def _compiled(stored: Array, pairs: Sequence[Pair], outtype: GGMLType, memory: Kept) -> Rounded:
    from quantkit.kernels import lane_rows

    left, right = factors(pairs, stored.shape)
    floats = memory.array("floats", stored.shape, np.dtype(np.float32))
    bits = memory.array("bits", stored.shape, BY_TYPE[outtype])
    run = lane_rows.carry(TYPE_OF[stored.dtype], outtype)
    scratch = np.empty(lane_rows.BLOCK, dtype=np.float32)
    word = run(words(stored), left, right, floats, words(bits), scratch)
    largest = float(np.array(word, dtype=np.int32).view(np.float32))
    return Rounded(largest, bits if largest < OVERFLOW[outtype] else None, floats)
