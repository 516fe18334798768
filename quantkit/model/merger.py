"""Merges a base tensor with its adapters, a range of rows at a time.

Everything works on ranges of rows, so an embedding of 128k rows needs no more memory than a small tensor. The sum is
float32, whatever type the checkpoint is stored in; it is rounded once, later, to the type of the output.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from quantkit.adapter.changes import Add, LowRank, Module, Place, Replace, Slice, Tokens
from quantkit.adapter.folder import Adapter
from quantkit.adapter.merged_modules import Key, MergedModules
from quantkit.checkpoint.dtypes import Floats, all_finite
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.tensor_file import Memory, new_memory
from quantkit.engine.file_source import HashedFile, ReadFiles
from quantkit.engine.rows import Rows, joined
from quantkit.errors import CheckpointError
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.model.effect_meter import EffectMeter
from quantkit.plan.order import indices, runs_between
from quantkit.plan.values import PlannedTensor

# Cached factors: consecutive ranges belong to one tensor, and a few tensors are in work at a time.
_FACTORS_KEPT = 16
# Rows summed at a time for a norm over all rows.
_NORM_ROWS = 4096


class Merger:
    """Rows of the merged model.

    Adapters are applied in order, each to the result of the previous ones. Safe from any thread.
    """

    def __init__(self, checkpoint: Checkpoint, adapters: Sequence[Adapter]) -> None:
        self.checkpoint, self.adapters = checkpoint, tuple(adapters)
        self._factors = lru_cache(maxsize=_FACTORS_KEPT)(Adapter.factors)
        self._modules = MergedModules(self._merge_module)
        self._norms: dict[tuple[int, str], Floats] = {}
        self._norms_lock = threading.RLock()
        self._meter = EffectMeter(checkpoint, self.adapters)

    @property
    def meter(self) -> EffectMeter:
        """What measures the adapters."""
        return self._meter

    def effects(self) -> tuple[AdapterEffect, ...]:
        """What each adapter changes, of the rows that were handed out."""
        return self._meter.effects()

    def reads(self) -> ReadFiles:
        """The checkpoint's files, and those of the adapters with their weights."""
        files = tuple(sorted({spec.file for file in self.checkpoint.files.values() for spec in file.specs.values()}))
        base = ReadFiles(files, whole=(HashedFile(self.checkpoint.path / "config.json"),))
        return sum((adapter.reads() for adapter in self.adapters), base)

    def measures(self, tensor: PlannedTensor) -> bool:
        """What an adapter changes is measured."""
        return any(self._is_changed(name) for name in tensor.sources)

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory = new_memory) -> Rows:
        """Rows ``start:stop`` of one segment, in GGUF's layout: what is stored, and what is still to be added.

        Args:
            tensor: what is planned.
            start: first row.
            stop: row after the last.
            memory: what is read as it is stored is read into this.
        """
        if tensor.values is not None:
            return Rows(tensor.values[start:stop])
        if tensor.blocks:
            return self._blocks(tensor, start, stop)
        if tensor.transposed:
            return self._transposed(tensor, start, stop)
        if tensor.zero_rows:
            return self._before_zeros(tensor, start, stop, memory)
        rows = self._in_order(tensor, start, stop, memory)
        name = tensor.sources[0]
        if tensor.column_order:
            rows = rows.with_columns(indices(tensor.column_order))
        if tensor.compute is not None or tensor.folds:
            return self._computed(tensor, rows, start)
        if tensor.arrange is None:
            return rows
        if len(tensor.shape) > 1:  # of a matrix only the choice and the order of rows change
            pairs = tuple((tensor.arrange(left), right) for left, right in rows.pairs)
            return Rows(tensor.arrange(rows.stored), pairs)
        if not rows.pairs and rows.stored.dtype == np.float16 and not self._is_changed(name):
            return Rows(tensor.arrange(rows.stored))  # llama.cpp's converter computes in float16 here
        return Rows(tensor.arrange(rows.merged()))

    def _before_zeros(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory) -> Rows:
        """Rows of a tensor that has more of them than its source."""
        source = replace(tensor, shape=(tensor.rows - tensor.zero_rows, tensor.columns), zero_rows=0)
        if start >= source.rows:
            return Rows(np.zeros((stop - start, tensor.columns), dtype=np.float32))
        return self.rows(source, start, min(stop, source.rows), memory).followed_by_zeros(stop - start)

    def _computed(self, tensor: PlannedTensor, rows: Rows, start: int) -> Rows:
        """Rows of a tensor whose values are not those of the checkpoint; as stored in float16, they stay float16."""
        halves = not rows.pairs and rows.stored.dtype == np.float16 and not self._is_changed(tensor.sources[0])
        values = rows.stored if halves else rows.merged()
        if tensor.folds:
            values = values.reshape(-1, tensor.columns)
        return Rows(values if tensor.compute is None else tensor.compute(values, start))

    def _in_order(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory) -> Rows:
        """Merged rows ``start:stop`` of the target, wherever they are in its source."""
        spans = list(_source_spans(tensor, start, stop))
        if len(spans) == 1:
            return self._after(spans[0][0], len(self.adapters), *spans[0][1:], memory, self._meter)
        # Each part is kept until all are there: not in the memory that the next one is read into.
        return joined(
            [self._after(name, len(self.adapters), first, last, meter=self._meter) for name, first, last in spans]
        )

    def _transposed(self, tensor: PlannedTensor, start: int, stop: int) -> Rows:
        """Rows of one matrix that is the transpose of some rows of its source."""
        ((name, first, last),) = _source_spans(tensor, start, stop)
        rows = self._after(name, len(self.adapters), first, last, meter=self._meter)
        values, column = rows.merged() if rows.pairs else rows.stored, start % tensor.shape[-2]
        wanted = slice(column, column + stop - start)
        columns = indices(tensor.column_order)[wanted] if tensor.column_order else wanted
        return Rows(np.ascontiguousarray(values[:, columns].T))

    def _blocks(self, tensor: PlannedTensor, start: int, stop: int) -> Rows:
        """Rows as they are stored."""
        blocks = self.checkpoint.stored_blocks(tensor.sources[0])
        assert blocks is not None
        runs = runs_between(tensor.row_order, start, stop)
        return Rows(np.concatenate([blocks.read(run.start, run[-1] + 1)[:: run.step] for run in runs]))

    def _is_changed(self, name: str) -> bool:
        return any(name in adapter.changes for adapter in self.adapters)

    def _after(
        self,
        name: str,
        count: int,
        start: int,
        stop: int,
        memory: Memory = new_memory,
        meter: EffectMeter | None = None,
    ) -> Rows:
        """Rows of a checkpoint tensor after the first *count* adapters; *meter* is shown each of them."""
        overwriting = [index for index in range(count) if self.adapters[index].overwrites(name)]
        if overwriting:  # everything before the last of them is overwritten
            first, rows = overwriting[-1], Rows(np.empty(0, dtype=np.float32))
        else:
            stored = self.checkpoint.read(name, start, stop, memory)
            first, rows = 0, Rows(stored if stored.ndim else stored.reshape(1))  # bounds of clipped layers: one number
        for index in range(first, count):
            before, rows = rows, self._step(index, name, rows, start, stop)
            if meter is not None:
                replaced = bool(overwriting) and index == first
                meter.take(index, name, start, None if replaced else before, rows)
        return rows

    def _step(self, index: int, name: str, rows: Rows, start: int, stop: int) -> Rows:
        """Apply one adapter to rows, scaled by its weight: ``rows + weight * (changed - rows)``."""
        adapter = self.adapters[index]
        changes = adapter.changes.get(name, ())
        if adapter.weight == 1 or adapter.is_linear(name):
            return self._apply(index, name, len(changes), rows, start, stop, adapter.weight)
        before = rows.merged()
        changed = self._apply(index, name, len(changes), Rows(before), start, stop, 1.0).merged()
        return Rows(before + np.float32(adapter.weight) * (changed - before))

    def _apply(self, index: int, name: str, count: int, rows: Rows, start: int, stop: int, weight: float) -> Rows:
        """Apply the first *count* changes of one adapter; additions are scaled by *weight*."""
        adapter = self.adapters[index]
        for position, change in enumerate(adapter.changes.get(name, ())[:count]):
            match change:
                case Replace(key):
                    rows = Rows(adapter.read(key, start, stop))
                case Add(key, scale):
                    rows = Rows(rows.merged() + np.float32(scale * weight) * adapter.read(key, start, stop))
                case LowRank(part=Slice(start=first, stop=last), place=Place(start=above)):
                    low, high = max(start, above), min(stop, above + last - first)
                    if low < high:  # a matrix of a stack; the rows of the others stay
                        left, right = self._factors(adapter, replace(change, place=None))
                        share = np.zeros((stop - start, left.shape[1]), dtype=np.float32)
                        share[low - start : high - start] = left[low - above : high - above]
                        rows = rows.plus(share * np.float32(change.scale * weight), right)
                case LowRank():
                    left, right = self._factors(adapter, change)
                    rows = rows.plus(left[start:stop] * np.float32(change.scale * weight), right)
                    if change.magnitude and change.transposed:
                        norm = self._norm(index, name, position)
                        rows = Rows(rows.merged() * (adapter.read(change.magnitude) / norm))
                    elif change.magnitude:
                        sums = rows.merged()
                        magnitudes = adapter.read(change.magnitude, start, stop)
                        rows = Rows(sums * (magnitudes / _row_norms(sums))[:, None])
                case Tokens(key, indices):
                    inside = [i for i, token in enumerate(indices) if start <= token < stop]
                    if inside:
                        values = rows.merged()
                        values[[indices[i] - start for i in inside]] = adapter.read(key)[inside]
                        rows = Rows(values)
                case Module(module, leaf):
                    merged = self._modules.weight if leaf == "weight" else self._modules.bias
                    rows = Rows(merged((index, name.removesuffix(f".{leaf}"), module), start, stop))
        return rows

    def _before(self, index: int, name: str, position: int, start: int, stop: int) -> Rows:
        """Rows before one change of an adapter."""
        rows = self._after(name, index, start, stop)
        return self._apply(index, name, position, rows, start, stop, 1.0)

    def _norm(self, index: int, name: str, position: int) -> Floats:
        """The norm over all rows of each column after an embedding's DoRA sum, computed range by range."""
        with self._norms_lock:
            if (index, name) not in self._norms:
                change = self.adapters[index].changes[name][position]
                assert isinstance(change, LowRank)
                left, right = self._factors(self.adapters[index], change)
                squares = np.zeros(right.shape[1], dtype=np.float64)
                for start in range(0, left.shape[0], _NORM_ROWS):
                    stop = min(left.shape[0], start + _NORM_ROWS)
                    rows = self._before(index, name, position, start, stop)
                    sums = rows.plus(left[start:stop] * np.float32(change.scale), right).merged()
                    squares += np.square(sums.astype(np.float64)).sum(axis=0)
                self._norms[index, name] = np.sqrt(squares).astype(np.float32)
            return self._norms[index, name]

    def _merge_module(self, key: Key) -> tuple[Floats, Floats | None]:
        """Merge one whole module with PEFT's layer."""
        index, base, module = key
        layers = self.adapters[index].layers
        assert layers is not None

        def whole(leaf: str) -> Floats:
            name = f"{base}.{leaf}"
            changes = self.adapters[index].changes[name]
            position = next(i for i, change in enumerate(changes) if isinstance(change, Module))
            return self._before(index, name, position, 0, self.checkpoint.tensors[name].shape[0]).merged()

        return layers.merge(module, whole("weight"), whole("bias") if module in layers.biased else None)

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> CheckpointError | None:
        """The error for a base tensor with values that are not finite in these rows; None if the base is sound."""
        if tensor.values is not None:
            return None
        if tensor.blocks:
            return self._bad_base(tensor.sources[0])
        last = min(stop, tensor.rows - tensor.zero_rows)
        if start >= last:
            return None
        spans = list(_source_spans(tensor, start, last))
        source = spans[0][0]
        if any(adapter.overwrites(source) for adapter in self.adapters):
            return None  # the base's rows are not part of the result, and there may be fewer of them
        if all(all_finite(self.checkpoint.read(*span)) for span in spans):
            return None
        return self._bad_base(source)

    def _bad_base(self, source: str) -> CheckpointError:
        return CheckpointError(
            f"{self.checkpoint.tensors[source].file}: tensor {source!r} has NaN or infinite values",
            hint="download the file again, or use an earlier checkpoint",
        )


def _row_norms(rows: Floats) -> Floats:
    """The Euclidean norm of each row, summed in float64."""
    squares: npt.NDArray[np.float64] = np.square(rows.astype(np.float64)).sum(axis=1)
    return np.sqrt(squares).astype(np.float32)


def _source_spans(tensor: PlannedTensor, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """Where rows of one segment of a planned tensor are in the checkpoint: tensor, first row, end (exclusive)."""
    if tensor.transposed:
        run = tensor.row_order[start // tensor.shape[-2]]
        yield tensor.sources[0], run.start, run.stop
        return
    if tensor.row_order:
        yield from ((tensor.sources[0], run.start, run.stop) for run in runs_between(tensor.row_order, start, stop))
        return
    index, first = divmod(start, tensor.rows // len(tensor.sources))
    if tensor.folds:
        yield tensor.sources[index], first * tensor.columns, (first + stop - start) * tensor.columns
        return
    per_unit = tensor.unit if tensor.source_unit is None else tensor.source_unit
    low, high = (row // tensor.unit * per_unit for row in (first, first + stop - start))
    yield tensor.sources[index], low, high
