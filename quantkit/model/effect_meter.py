"""Measures what adapters change, on rows that are being merged anyway.

Only a fixed sample of rows is looked at, chosen by their number in the tensor and by its shape, on the host, before a
device encodes them: every device and any number of workers give the same figures, and it costs two percent of
the merge. Whether a tensor is changed at all is not a matter of the sample: factors are looked at in full, and what
is computed in another way is compared row by row until one differs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from operator import is_
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quantkit.adapter.changes import Change, LowRank
from quantkit.checkpoint.dtypes import to_float32
from quantkit.checkpoint.folder import Checkpoint
from quantkit.engine.rows import Rows
from quantkit.hub.source import source_label
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.model.effect_sums import SampledTensor, TotalSums, put_sums, rows_at

# A change of more than a quarter of the norm of the matrix is large; docs/adapters.md has what real ones are.
LARGE = 0.25
# Figures are kept with so many digits.
_DIGITS = 4


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
        self._measured: list[dict[str, SampledTensor]] = [{} for _ in adapters]
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

    def _tensor(self, index: int, name: str) -> SampledTensor:
        known = self._measured[index]
        with self._lock:
            if name not in known:
                known[name] = SampledTensor.of(self._shape(name), self._adapters[index].changes[name])
            return known[name]

    def _shape(self, name: str) -> Sequence[int]:
        return self._base.tensors[name].shape if isinstance(self._base, Checkpoint) else self._base[name]

    def _look_at_products(self, tensor: SampledTensor, start: int, stop: int, before: Rows, after: Rows) -> None:
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

    def _compare(self, tensor: SampledTensor, start: int, stop: int, before: Rows, after: Rows) -> None:
        """The rows were computed in another way: the change is the difference."""
        first, end = np.searchsorted(tensor.tokens, (start, stop))
        if first < end:
            local = tensor.tokens[first:end] - start
            weights, values = rows_at(before, local), rows_at(after, local)
            put_sums(tensor.token_sums[:, first:end], weights, values - weights)
            tensor.changed = tensor.changed or not np.array_equal(weights, values)
        if rows := tensor.sampled(start, stop):
            sampled = slice(rows.start - start, stop - start, tensor.every)
            weights, values = before.part(sampled).merged(), after.part(sampled).merged()
            tensor.put(rows, weights, values - weights)
            tensor.changed = tensor.changed or not np.array_equal(weights, values)
        if not tensor.changed and not tensor.tokens.size:
            tensor.changed = not np.array_equal(before.merged(), after.merged())

    def _compare_with_base(self, tensor: SampledTensor, name: str, start: int, stop: int, after: Rows) -> None:
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
        matrices = {name: TotalSums.of(tensor) for name, tensor in known.items() if tensor.columns}
        vectors = {name: TotalSums.of(tensor) for name, tensor in known.items() if not tensor.columns}
        total = TotalSums.all(sums for name, sums in (matrices or vectors).items() if known[name].changed)
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
