"""Sums over a sample of the rows of a tensor, before and after an adapter, and the figures that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from quantkit.adapter.changes import Change, Tokens
from quantkit.checkpoint.dtypes import Floats
from quantkit.engine.rows import Rows
from quantkit.kernels.low_rank import merged

# Of a large matrix every 251st row is looked at (a prime: no head size or block is a multiple of it), of smaller ones
# as many as make 16,384 weights, which is all of a tiny one.
_EVERY = 251
_ENOUGH_WEIGHTS = 14  # as a power of two
# A change is contained in the weights if the overlap is 1 within a tenth, and within what chance may add to it.
WITHIN, DEVIATIONS = 0.1, 3.0


@dataclass(eq=False)
class SampledTensor:
    """What is known of one tensor.

    Attributes:
        rows: number of rows.
        columns: weights in a row; 0 for a vector.
        every: distance of the sampled rows.
        sums: of each sampled row, float64 [3, samples]: <D, D>, <W, W> and <D, W>. Rows are set, never added, so the
            order in which they come does not matter.
        tokens: the only rows that are changed, in order; empty where any may be.
        token_sums: of each of them, float64 [3, tokens], as *sums*.
        changed: whether a change has been seen.
    """

    rows: int
    columns: int
    every: int
    sums: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    token_sums: npt.NDArray[np.float64]
    changed: bool = False

    @classmethod
    def of(cls, shape: Sequence[int], changes: Sequence[Change]) -> SampledTensor:
        """A tensor of which nothing has been seen yet, and what an adapter does to it."""
        columns = shape[-1] if len(shape) > 1 else 0
        rows = math.prod(shape) // (columns or 1)
        every = min(_EVERY, max(1, math.prod(shape) >> _ENOUGH_WEIGHTS))
        tokens = {token for change in changes if isinstance(change, Tokens) for token in change.indices}
        if not all(isinstance(change, Tokens) for change in changes):
            tokens = set()
        sums, token_sums = np.zeros((3, len(range(every // 2, rows, every)))), np.zeros((3, len(tokens)))
        return cls(rows, columns, every, sums, np.array(sorted(tokens), dtype=np.int64), token_sums)

    def sampled(self, start: int, stop: int) -> range:
        """The sampled rows in ``start:stop``."""
        return range(start + (self.every // 2 - start) % self.every, stop, self.every)

    def put(self, rows: range, weights: Floats, change: Floats) -> None:
        """Keep the sums of some sampled rows: both float32, [n, columns] (vectors: [n])."""
        first = rows.start // self.every
        put_sums(self.sums[:, first : first + len(rows)], weights, change)


def put_sums(place: npt.NDArray[np.float64], weights: Floats, change: Floats) -> None:
    """Set the sums of n rows, float64 [3, n]; a sum over one row is the same whatever other rows are there."""
    w, d = (part.reshape(len(weights), -1) for part in (weights, change))
    with np.errstate(all="ignore"):  # what is not finite is refused by name where it is encoded
        for sums, (one, other) in zip(place, ((d, d), (w, w), (d, w)), strict=True):
            sums[:] = np.einsum("ij,ij->i", one, other)


def rows_at(rows: Rows, numbers: npt.NDArray[np.int64]) -> Floats:
    """Single rows, merged: float32 [n, columns]."""
    return merged(rows.stored[numbers], tuple((left[numbers], right) for left, right in rows.pairs))


@dataclass(frozen=True)
class TotalSums:
    """Sums over all rows of one tensor or of several, as the sample gives them: of weights W and their change D.

    Attributes:
        change: <D, D>.
        weights: <W, W>.
        both: <D, W>.
        count: weights that were looked at.
    """

    change: float
    weights: float
    both: float
    count: int

    @classmethod
    def of(cls, measured: SampledTensor) -> TotalSums:
        """The sums of one tensor."""
        scale = measured.rows / max(measured.sums.shape[1], 1)
        change, weights, both = (scale * math.fsum(row) for row in measured.sums)
        if measured.tokens.size:
            change, _, both = map(math.fsum, measured.token_sums)
        return cls(change, weights, both, measured.sums.shape[1] * max(measured.columns, 1))

    @classmethod
    def all(cls, totals: Iterable[TotalSums]) -> TotalSums:
        """The sums over several tensors."""
        totals = tuple(totals)
        values: Iterable[Callable[[TotalSums], float]] = map(attrgetter, ("change", "weights", "both"))
        change, weights, both = (math.fsum(map(value, totals)) for value in values)
        return cls(change, weights, both, sum(total.count for total in totals))

    @property
    def norm(self) -> float:
        """|D| / |W|, 0 without weights."""
        return math.sqrt(self.change / self.weights) if self.weights else 0.0

    @property
    def correlation(self) -> float:
        """<D, W> / |D| |W|, 0 without a change."""
        return self.both / math.sqrt(self.change * self.weights) if self.change and self.weights else 0.0

    @property
    def overlap(self) -> float:
        """<D, W> / <D, D>, 0 without a change."""
        return self.both / self.change if self.change else 0.0

    @property
    def error(self) -> float:
        """The standard deviation of the overlap of unrelated change and weights."""
        return math.sqrt(self.weights / self.change / self.count) if self.change else 0.0

    def is_contained(self, weight: float) -> bool:
        """Whether the change, merged with this weight, is part of the weights already."""
        return bool(self.change) and abs(self.overlap * weight - 1) < WITHIN + DEVIATIONS * self.error * abs(weight)
