"""Modules that are merged as a whole, cached until all of their rows have been read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from quantkit.checkpoint.dtypes import Floats

# The adapter's number, and the module's name in the base and in training.
Key = tuple[int, str, str]

# Modules cached at a time: the current one, and earlier ones that some worker still reads.
_KEPT = 3


@dataclass
class _Merged:
    weight: Floats
    left: int  # rows of the weight that have not been read yet


class MergedModules:
    """Merged weights and biases, computed once and one at a time. Safe from any thread.

    A weight is dropped when the last of its rows has been read, or when too many are cached; if it is needed again, it
    is computed again. Biases are small and stay cached.

    Args:
        compute: merges the module of a key; returns its weight, and its bias or None.
    """

    def __init__(self, compute: Callable[[Key], tuple[Floats, Floats | None]]) -> None:
        self._compute = compute
        self._kept: OrderedDict[Key, _Merged] = OrderedDict()
        self._biases: dict[Key, Floats] = {}
        self._lock = threading.RLock()  # merging a module may need that of an earlier adapter

    def weight(self, key: Key, start: int, stop: int) -> Floats:
        """Rows ``start:stop`` of a module's weight, as a copy that the caller may change."""
        with self._lock:
            merged = self._kept.get(key) or self._merge(key)
            rows = merged.weight[start:stop].copy()
            merged.left -= stop - start
            if merged.left <= 0:
                self._kept.pop(key, None)
            return rows

    def bias(self, key: Key, start: int, stop: int) -> Floats:
        """Values ``start:stop`` of a module's bias."""
        with self._lock:
            if key not in self._biases:
                self._merge(key)
            return self._biases[key][start:stop].copy()

    def _merge(self, key: Key) -> _Merged:
        weight, bias = self._compute(key)
        while len(self._kept) >= _KEPT:
            self._kept.popitem(last=False)
        merged = self._kept[key] = _Merged(weight, weight.shape[0])
        if bias is not None:
            self._biases[key] = bias
        return merged
