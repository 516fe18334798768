"""Merges a base tensor with its adapters: float32 rows, on the device of the worker that asks for them.

Everything works on ranges of rows, so an embedding of 128k rows needs no more memory than a small tensor. The sum is
float32, whatever type the checkpoint is stored in; it is rounded once, later, to the type of the output.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import torch

from quantkit.adapter.changes import Add, LowRank, Module, Replace, Tokens
from quantkit.adapter.folder import Adapter
from quantkit.adapter.merged_modules import Key, MergedModules
from quantkit.checkpoint.folder import Checkpoint
from quantkit.engine.backend import CPU, Backend
from quantkit.errors import CheckpointError
from quantkit.plan.values import PlannedTensor

# Cached factors: consecutive ranges belong to one tensor, and a few tensors are in work at a time.
_FACTORS_KEPT = 16
# Rows summed at a time for a norm over all rows.
_NORM_ROWS = 4096


def add_low_rank(rows: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """``rows + scale * left @ right`` in float32, in place (Hu et al. 2021, arXiv:2106.09685, equation 3).

    Args:
        rows: shape [n, in].
        left: shape [n, r].
        right: shape [r, in].
        scale: the adapter's scale.
    """
    return rows.addmm_(left, right, alpha=scale)


class Merger:
    """Rows of the merged model.

    Adapters are applied in order, each to the result of the previous ones. Safe from any thread.
    """

    def __init__(self, checkpoint: Checkpoint, adapters: Sequence[Adapter]) -> None:
        self.checkpoint, self.adapters = checkpoint, tuple(adapters)
        self._factors = lru_cache(maxsize=_FACTORS_KEPT)(Adapter.factors)
        self._modules = MergedModules(self._merge_module)
        self._norms: dict[tuple[int, str], torch.Tensor] = {}
        self._norms_lock = threading.RLock()

    def rows(self, tensor: PlannedTensor, start: int, stop: int, backend: Backend = CPU) -> torch.Tensor:
        """Rows ``start:stop`` of one segment: float32, merged, in GGUF's layout, on the device of *backend*."""
        if tensor.values is not None:
            return backend.put(tensor.values[start:stop])
        name, first, last = _source_rows(tensor, start, stop)
        if tensor.arrange is None:
            return self._after(name, len(self.adapters), first, last, backend)
        if self._is_untouched_f16(name):
            return tensor.arrange(self._read(name, first, last, backend)).float()
        return tensor.arrange(self._after(name, len(self.adapters), first, last, backend))

    def _read(self, name: str, start: int, stop: int, backend: Backend) -> torch.Tensor:
        """Rows of the checkpoint in their stored type, on the device."""
        with backend.span("read"):
            rows = self.checkpoint.read(name, start, stop, backend.memory)
        return backend.put(rows)

    def _is_untouched_f16(self, name: str) -> bool:
        """Whether to arrange a tensor in float16, as llama.cpp's converter does: arranging by addition rounds there."""
        untouched = not any(name in adapter.changes for adapter in self.adapters)
        return untouched and self.checkpoint.tensors[name].dtype == "F16"

    def _after(self, name: str, count: int, start: int, stop: int, backend: Backend) -> torch.Tensor:
        """Rows of a checkpoint tensor after the first *count* adapters."""
        overwriting = [index for index in range(count) if self.adapters[index].overwrites(name)]
        if overwriting:  # everything before the last of them is overwritten
            first, rows = overwriting[-1], torch.empty(0)
        else:
            first, rows = 0, self._read(name, start, stop, backend).float()
        with backend.span("merge", computes=True):
            for index in range(first, count):
                rows = self._step(index, name, rows, start, stop, backend)
        return rows

    def _step(self, index: int, name: str, rows: torch.Tensor, start: int, stop: int, backend: Backend) -> torch.Tensor:
        """Apply one adapter to rows, scaled by its weight: ``rows + weight * (changed - rows)``."""
        adapter = self.adapters[index]
        changes = adapter.changes.get(name, ())
        if adapter.weight == 1 or not changes:
            return self._apply(index, name, len(changes), rows, start, stop, 1.0, backend)
        if adapter.is_linear(name):
            return self._apply(index, name, len(changes), rows, start, stop, adapter.weight, backend)
        changed = self._apply(index, name, len(changes), rows.clone(), start, stop, 1.0, backend)
        return rows.add_(changed.sub_(rows), alpha=adapter.weight)

    def _apply(
        self,
        index: int,
        name: str,
        count: int,
        rows: torch.Tensor,
        start: int,
        stop: int,
        weight: float,
        backend: Backend,
    ) -> torch.Tensor:
        """Apply the first *count* changes of one adapter; additions are scaled by *weight*."""
        adapter = self.adapters[index]
        for position, change in enumerate(adapter.changes.get(name, ())[:count]):
            match change:
                case Replace(key):
                    rows = backend.put(adapter.read(key, start, stop))
                case Add(key, scale):
                    rows.add_(backend.put(adapter.read(key, start, stop)), alpha=scale * weight)
                case LowRank():
                    left, right = self._factors(adapter, change)
                    add_low_rank(rows, backend.put(left[start:stop]), backend.put(right), change.scale * weight)
                    if change.magnitude and change.transposed:
                        norm = self._norm(index, name, position, backend)
                        rows.mul_(backend.put(adapter.read(change.magnitude)) / backend.put(norm))
                    elif change.magnitude:
                        magnitudes = backend.put(adapter.read(change.magnitude, start, stop))
                        rows.mul_((magnitudes / torch.linalg.vector_norm(rows, dim=1)).unsqueeze(1))
                case Tokens(key, indices):
                    inside = [i for i, token in enumerate(indices) if start <= token < stop]
                    if inside:
                        rows[[indices[i] - start for i in inside]] = backend.put(adapter.read(key)[inside])
                case Module(module, leaf):
                    merged = self._modules.weight if leaf == "weight" else self._modules.bias
                    rows = backend.put(merged((index, name.removesuffix(f".{leaf}"), module), start, stop, backend))
        return rows

    def _before(self, index: int, name: str, position: int, start: int, stop: int, backend: Backend) -> torch.Tensor:
        """Rows before one change of an adapter."""
        rows = self._after(name, index, start, stop, backend)
        return self._apply(index, name, position, rows, start, stop, 1.0, backend)

    def _norm(self, index: int, name: str, position: int, backend: Backend) -> torch.Tensor:
        """The norm over all rows of each column after an embedding's DoRA sum, computed range by range; on the host."""
        with self._norms_lock:
            if (index, name) not in self._norms:
                change = self.adapters[index].changes[name][position]
                assert isinstance(change, LowRank)
                left, right = self._factors(self.adapters[index], change)
                squares = torch.zeros(right.shape[1], dtype=torch.float64, device=backend.device)
                for start in range(0, left.shape[0], _NORM_ROWS):
                    stop = min(left.shape[0], start + _NORM_ROWS)
                    rows = self._before(index, name, position, start, stop, backend)
                    add_low_rank(rows, backend.put(left[start:stop]), backend.put(right), change.scale)
                    squares += rows.double().square().sum(dim=0)
                self._norms[index, name] = squares.sqrt().float().cpu()
            return self._norms[index, name]

    def _merge_module(self, key: Key, backend: Backend) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Merge one whole module with PEFT's layer; the result stays on the host, where every worker can use it."""
        index, base, module = key
        layers = self.adapters[index].layers
        assert layers is not None

        def whole(leaf: str) -> torch.Tensor:
            name = f"{base}.{leaf}"
            changes = self.adapters[index].changes[name]
            position = next(i for i, change in enumerate(changes) if isinstance(change, Module))
            return self._before(index, name, position, 0, self.checkpoint.tensors[name].shape[0], backend)

        weight, bias = layers.merge(module, whole("weight"), whole("bias") if module in layers.biased else None)
        return weight.cpu(), None if bias is None else bias.cpu()

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> CheckpointError | None:
        """The error for a base tensor with values that are not finite in these rows; None if the base is sound."""
        if tensor.values is not None:
            return None
        source, first, last = _source_rows(tensor, start, stop)
        if any(adapter.overwrites(source) for adapter in self.adapters):
            return None  # the base's rows are not part of the result, and there may be fewer of them
        if torch.isfinite(self.checkpoint.read(source, first, last).float()).all():
            return None
        return CheckpointError(
            f"{self.checkpoint.tensors[source].file}: tensor {source!r} has NaN or infinite values",
            hint="download the file again, or use an earlier checkpoint",
        )


def _source_rows(tensor: PlannedTensor, start: int, stop: int) -> tuple[str, int, int]:
    """Where rows of one segment of a planned tensor are in the checkpoint: tensor, first row, end (exclusive)."""
    index, first = divmod(start, tensor.rows // len(tensor.sources))
    return tensor.sources[index], first, first + stop - start
