"""Rows on their way from a source to the outputs: as they are stored, and the low-rank products still to be added.

A source hands out what it read and the factors of the adapters, and whoever encodes the rows adds them on the way: on a
device that is one kernel, on the processor one pass while the rows are in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantkit.checkpoint.dtypes import Array, Floats
from quantkit.kernels.low_rank import Pair, merged
from quantkit.plan.order import Indices


@dataclass(frozen=True)
class Rows:
    """Some rows of one tensor.

    Attributes:
        stored: F32, F16 or BF16 numbers, shape [n, columns] (vectors: [n]); of a tensor that is quantized already its
            bytes, uint8, shape [n, bytes of a row].
        pairs: factors whose products are added in this order, float32: left [n, r], with the scaling multiplied in,
            and right [r, columns]. A right factor is the same object for all rows of its tensor.
    """

    stored: Array
    pairs: tuple[Pair, ...] = ()

    def plus(self, left: Floats, right: Floats) -> Rows:
        """The rows with one more product to add."""
        return replace(self, pairs=(*self.pairs, (left, right)))

    def part(self, rows: slice) -> Rows:
        """Some of the rows, without a copy."""
        return Rows(self.stored[rows], tuple((left[rows], right) for left, right in self.pairs))

    def with_columns(self, numbers: Indices) -> Rows:
        """The columns of these numbers; what is still to be added is added first, so that no factor is copied."""
        return Rows((self.merged() if self.pairs else self.stored)[:, numbers])

    def followed_by_zeros(self, count: int) -> Rows:
        """As many as *count* rows: these, and rows of zeros behind them."""
        return Rows(_extended(self.stored, count), tuple((_extended(left, count), right) for left, right in self.pairs))

    def merged(self) -> Floats:
        """The rows as float32 in memory of their own: every product added, in their order."""
        return merged(self.stored, self.pairs)


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of one tensor after each other."""
    first = parts[0]
    rights = [id(right) for _, right in first.pairs]
    if any(
        part.stored.dtype != first.stored.dtype or [id(right) for _, right in part.pairs] != rights for part in parts
    ):
        return Rows(np.concatenate([part.merged() for part in parts]))
    pairs = tuple(
        (np.concatenate([part.pairs[i][0] for part in parts]), right) for i, (_, right) in enumerate(first.pairs)
    )
    return Rows(np.concatenate([part.stored for part in parts]), pairs)


def _extended(rows: Array, count: int) -> Array:
    made = np.zeros((count, *rows.shape[1:]), dtype=rows.dtype)
    made[: rows.shape[0]] = rows
    return made
