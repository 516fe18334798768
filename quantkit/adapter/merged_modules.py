"""Modules that are merged as a whole, kept for as long as ranges of their rows are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from quantkit.engine.backend import CPU, Backend

# The adapter's number, the module in the base and in training.
Key = tuple[int, str, str]

# Modules kept at a time: the one in work and those before it that some worker still takes rows of.
_KEPT = 3


@dataclass
class _Merged:
    weight: torch.Tensor
    left: int  # rows of the weight that nobody has taken yet


class MergedModules:
    """Merged weights and biases, computed once and one at a time. Safe from any thread.

    A weight is let go when the last of its rows was taken, or when too many are kept; it is then computed again if it
    is asked for again. Biases are small, and kept.

    Args:
        compute: merges a module given by its key, on a backend: weight, and bias or None, on the host.
    """

    def __init__(self, compute: Callable[[Key, Backend], tuple[torch.Tensor, torch.Tensor | None]]) -> None:
        self._compute = compute
        self._kept: OrderedDict[Key, _Merged] = OrderedDict()
        self._biases: dict[Key, torch.Tensor] = {}
        self._lock = threading.RLock()  # to merge a module, one of an earlier adapter may be needed

    def weight(self, key: Key, start: int, stop: int, backend: Backend = CPU) -> torch.Tensor:
        """Rows ``start:stop`` of a module's weight, for the caller to change."""
        with self._lock:
            merged = self._kept.get(key) or self._merge(key, backend)
            rows = merged.weight[start:stop].clone()
            merged.left -= stop - start
            if merged.left <= 0:
                self._kept.pop(key, None)
            return rows

    def bias(self, key: Key, start: int, stop: int, backend: Backend = CPU) -> torch.Tensor:
        """Values ``start:stop`` of a module's bias."""
        with self._lock:
            if key not in self._biases:
                self._merge(key, backend)
            return self._biases[key][start:stop].clone()

    def _merge(self, key: Key, backend: Backend) -> _Merged:
        weight, bias = self._compute(key, backend)
        while len(self._kept) >= _KEPT:
            self._kept.popitem(last=False)
        merged = self._kept[key] = _Merged(weight, weight.shape[0])
        if bias is not None:
            self._biases[key] = bias
        return merged
