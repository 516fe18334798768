"""Measures what adapters change, on rows that are being merged anyway.

Only a fixed sample of rows is looked at, chosen by their number in the tensor and by its shape, on the host, before a
device encodes them: every device and any number of workers give the same figures, and it costs two percent of
the merge. Whether a tensor is changed at all is not a matter of the sample: factors are looked at in full, and what
is computed in another way is compared row by row until one differs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quantkit.adapter.changes import Change, LowRank, Tokens
from quantkit.checkpoint.dtypes import Floats, to_float32
from quantkit.checkpoint.folder import Checkpoint
from quantkit.engine.rows import Rows
from quantkit.hub.source import source_label
from quantkit.kernels.low_rank import merged
from quantkit.model.adapter_effect import AdapterEffect

# Of a large matrix every 251st row is looked at (a prime: no head size or block is a multiple of it), of smaller ones
# as many as make 16,384 weights, which is all of a tiny one.
_EVERY = 251
_ENOUGH_WEIGHTS = 14  # as a power of two
# A change of more than a quarter of the norm of the matrix is large; docs/adapters.md has what real ones are.
LARGE = 0.25
# A change is contained in the weights if the overlap is 1 within a tenth, and within what chance may add to it.
WITHIN, DEVIATIONS = 0.1, 3.0
# Figures are kept with so many digits.
_DIGITS = 4


@dataclass(eq=False)
class _Measured:
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
    def of(cls, shape: Sequence[int], changes: Sequence[Change]) -> _Measured:
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
        _put(self.sums[:, first : first + len(rows)], weights, change)


def _put(place: npt.NDArray[np.float64], weights: Floats, change: Floats) -> None:
    """Set sums of rows; a sum over one row is the same whatever other rows are there."""
    w, d = (part.reshape(len(weights), -1) for part in (weights, change))
    with np.errstate(all="ignore"):  # what is not finite is refused by name where it is encoded
        for sums, (one, other) in zip(place, ((d, d), (w, w), (d, w)), strict=True):
            sums[:] = np.einsum("ij,ij->i", one, other)


def _at(rows: Rows, numbers: npt.NDArray[np.int64]) -> Floats:
    """Single rows, merged."""
    return merged(rows.stored[numbers], tuple((left[numbers], right) for left, right in rows.pairs))


@dataclass(frozen=True)
class _Total:
    """Sums over a tensor, scaled from the sample to all rows, and the number of weights behind them."""

    change: float
    weights: float
    both: float
    count: int

    @classmethod
    def of(cls, measured: _Measured) -> _Total:
        scale = measured.rows / max(measured.sums.shape[1], 1)
        change, weights, both = (scale * math.fsum(row) for row in measured.sums)
        if measured.tokens.size:
            change, _, both = map(math.fsum, measured.token_sums)
        return cls(change, weights, both, measured.sums.shape[1] * max(measured.columns, 1))

    @classmethod
    def all(cls, totals: Iterable[_Total]) -> _Total:
        totals = tuple(totals)
        values: Iterable[Callable[[_Total], float]] = map(attrgetter, ("change", "weights", "both"))
        change, weights, both = (math.fsum(map(value, totals)) for value in values)
        return cls(change, weights, both, sum(total.count for total in totals))

    @property
    def norm(self) -> float:
        return math.sqrt(self.change / self.weights) if self.weights else 0.0

    @property
    def correlation(self) -> float:
        return self.both / math.sqrt(self.change * self.weights) if self.change and self.weights else 0.0

    @property
    def overlap(self) -> float:
        return self.both / self.change if self.change else 0.0

    @property
    def error(self) -> float:
        """The standard deviation of the overlap of unrelated change and weights."""
        return math.sqrt(self.weights / self.change / self.count) if self.change else 0.0

    def is_contained(self, weight: float) -> bool:
        return bool(self.change) and abs(self.overlap * weight - 1) < WITHIN + DEVIATIONS * self.error * abs(weight)


class Changing(Protocol):
    """An adapter: a PEFT folder or a LoRA file."""

    @property
    def path(self) -> Path:
        """Where it came from."""

    @property
    def weight(self) -> float:
        """How much of it is merged."""

    @property
    def changes(self) -> Mapping[str, Sequence[Change]]:
        """What it changes, by the tensor's name."""


Shapes = Mapping[str, Sequence[int]]
# By adapter, by tensor: sums, sums of tokens, and whether a change has been seen.
Measures = Sequence[Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], bool]]]


class EffectMeter:
    """Figures of what each adapter changes, from the rows before and after it. Safe from any thread."""

    def __init__(self, base: Checkpoint | Shapes, adapters: Sequence[Changing]) -> None:
        """Begin.

        Args:
            base: the checkpoint; of adapters that replace nothing, the shapes of what they change are enough.
            adapters: what is measured, in order.
        """
        self._base, self._adapters = base, tuple(adapters)
        self._measured: list[dict[str, _Measured]] = [{} for _ in adapters]
        self._lock = threading.Lock()

    def take(self, index: int, name: str, start: int, before: Rows | None, after: Rows) -> None:
        """Look at rows of a tensor.

        Args:
            index: the adapter.
            name: the tensor's name in the checkpoint.
            start: number of the first row.
            before: the rows before the adapter; None if they were not read, because the adapter replaces them.
            after: the same rows after it.
        """
        if name not in self._adapters[index].changes:
            return
        tensor = self._tensor(index, name)
        stop = start + after.stored.shape[0]
        if before is None:
            self._compare_with_base(tensor, name, start, stop, after)
        elif after.stored is before.stored and all(map(is_, after.pairs, before.pairs)):
            self._look_at_products(tensor, start, stop, before, after)
        else:
            self._compare(tensor, start, stop, before, after)

    def _tensor(self, index: int, name: str) -> _Measured:
        known = self._measured[index]
        with self._lock:
            if name not in known:
                known[name] = _Measured.of(self._shape(name), self._adapters[index].changes[name])
            return known[name]

    def _shape(self, name: str) -> Sequence[int]:
        return self._base.tensors[name].shape if isinstance(self._base, Checkpoint) else self._base[name]

    def _look_at_products(self, tensor: _Measured, start: int, stop: int, before: Rows, after: Rows) -> None:
        """Products were added, or nothing: the change is their sum, without the rounding of a difference."""
        pairs = after.pairs[len(before.pairs) :]
        tensor.changed = tensor.changed or any(
            bool((left.any(axis=0) & right.any(axis=1)).any()) for left, right in pairs
        )
        rows = tensor.sampled(start, stop)
        if not rows:
            return
        local = slice(rows.start - start, stop - start, tensor.every)
        weights = before.part(local).merged()
        change = np.zeros_like(weights)
        for left, right in pairs:  # one call, and no BLAS, whose order of sums depends on the number of rows
            change += np.einsum("ik,kj->ij", left[local], right)
        tensor.put(rows, weights, change)

    def _compare(self, tensor: _Measured, start: int, stop: int, before: Rows, after: Rows) -> None:
        """The rows were computed in another way: the change is the difference."""
        first, end = np.searchsorted(tensor.tokens, (start, stop))
        if first < end:
            local = tensor.tokens[first:end] - start
            weights, values = _at(before, local), _at(after, local)
            _put(tensor.token_sums[:, first:end], weights, values - weights)
            tensor.changed = tensor.changed or not np.array_equal(weights, values)
        if rows := tensor.sampled(start, stop):
            sampled = slice(rows.start - start, stop - start, tensor.every)
            weights, values = before.part(sampled).merged(), after.part(sampled).merged()
            tensor.put(rows, weights, values - weights)
            tensor.changed = tensor.changed or not np.array_equal(weights, values)
        if not tensor.changed and not tensor.tokens.size:
            tensor.changed = not np.array_equal(before.merged(), after.merged())

    def _compare_with_base(self, tensor: _Measured, name: str, start: int, stop: int, after: Rows) -> None:
        """The rows replace those of the base, which are read here: the sampled ones, and all of them only while none
        has been seen to differ. A row that the base does not have is a change without a measure."""
        assert isinstance(self._base, Checkpoint)
        spec = self._base.tensors[name]
        stored = self._base.files[spec.file].specs[spec.name].shape
        end = min(stop, math.prod(stored) // (tensor.columns or 1))
        tensor.changed = tensor.changed or end < stop
        if rows := tensor.sampled(start, end):
            base = np.concatenate([to_float32(self._base.read(name, row, row + 1)) for row in rows])
            values = after.part(slice(rows.start - start, end - start, tensor.every)).merged()
            tensor.put(rows, base, values - base)
            tensor.changed = tensor.changed or not np.array_equal(base, values)
        if not tensor.changed:
            base = to_float32(self._base.read(name, start, end))
            tensor.changed = not np.array_equal(base, after.part(slice(0, end - start)).merged())

    def measures(self, names: Iterable[str]) -> Measures:
        """What was measured of some tensors, for a meter in another process."""
        wanted = set(names)
        return [
            {name: (one.sums, one.token_sums, one.changed) for name, one in known.items() if name in wanted}
            for known in self._measured
        ]

    def add(self, measures: Measures) -> None:
        """What another process measured: rows that it did not see are zero there, and the others are the same here."""
        for index, known in enumerate(measures):
            for name, (sums, token_sums, changed) in known.items():
                own = self._tensor(index, name)
                np.copyto(own.sums, sums, where=sums != 0)
                np.copyto(own.token_sums, token_sums, where=token_sums != 0)
                own.changed = own.changed or changed

    def effects(self) -> tuple[AdapterEffect, ...]:
        """The figures of each adapter, over the tensors that were taken."""
        return tuple(map(self._effect, range(len(self._adapters))))

    def _effect(self, index: int) -> AdapterEffect:
        adapter, known = self._adapters[index], self._measured[index]
        matrices = {name: _Total.of(tensor) for name, tensor in known.items() if tensor.columns}
        vectors = {name: _Total.of(tensor) for name, tensor in known.items() if not tensor.columns}
        total = _Total.all(sums for name, sums in (matrices or vectors).items() if known[name].changed)
        return AdapterEffect(
            adapter=source_label(adapter.path),
            weight=adapter.weight,
            matrices=len(matrices),
            changed=sum(known[name].changed for name in matrices),
            vectors=len(vectors),
            changed_vectors=sum(known[name].changed for name in vectors),
            norm=_rounded(total.norm),
            correlation=_rounded(total.correlation),
            overlap=_rounded(total.overlap * adapter.weight),
            overlap_error=_rounded(total.error * abs(adapter.weight)),
            large=sum(one.norm > LARGE for one in matrices.values()),
            contained=sum(one.is_contained(adapter.weight) for one in matrices.values()),
            plain=all(
                isinstance(change, LowRank) and not change.magnitude
                for name in known
                for change in adapter.changes[name]
            ),
            unchanged=min((name for name, tensor in known.items() if not tensor.changed), default=""),
        )


def _rounded(value: float) -> float:
    """A figure with few digits: the last ones of a sum say nothing, and a reader compares figures of two builds."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else 0.0
