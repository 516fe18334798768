"""How tensors are cut into ranges of rows, and which worker gets which.

The cuts depend on a tensor's shape alone, so the result does not depend on the workers. A worker keeps to one tensor as
long as there are others for the others: its ranges then come in order to the tensor's hash and to its place in the
file. The largest tensors are begun first, and at the end everyone helps with what is left.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantkit.plan.values import PlannedTensor, count_elements

# Weights in a range on the processor, at most and, but for small tensors, at least: an eighth of the tensor between
# them. Two cores like ranges whose buffers stay near the cache; many workers like larger ones, because each needs
# Python's lock between two steps (8B on 16 cores: 13.5, 11.1 and 8.7 s for one, two and four million). Large models are
# built on large machines. Measured with scripts/bench.
CHUNK_WEIGHTS, LEAST_CHUNK_WEIGHTS = 1 << 22, 1 << 20
# On a device: large enough that copies run at full rate and the steps' overhead in Python is nothing.
DEVICE_CHUNK_WEIGHTS = 1 << 24
# A float32 product keeps its bits from about 64 rows up, so ranges are whole multiples of it.
_ROW_MULTIPLE = 64


@dataclass(frozen=True)
class RowRange:
    """A range of rows of one tensor, within one segment of it; ``index`` counts the tensor's ranges."""

    tensor: PlannedTensor
    index: int
    start: int
    stop: int


def row_ranges(tensor: PlannedTensor, chunk: int | None = None) -> Iterator[RowRange]:
    """Cut a tensor into ranges of about *chunk* weights, by its shape alone.

    Args:
        tensor: what to cut.
        chunk: weights in a range; None for what suits processors.
    """
    chunk = chunk or min(CHUNK_WEIGHTS, max(LEAST_CHUNK_WEIGHTS, count_elements(tensor.shape) // 8))
    unit = math.lcm(tensor.unit, _ROW_MULTIPLE)
    step = max(1, chunk // (tensor.columns * unit)) * unit
    index = itertools.count()
    for first in range(0, tensor.rows, tensor.segment):
        end = first + tensor.segment
        for start in range(first, end, step):
            yield RowRange(tensor, next(index), start, min(end, start + step))


class Scheduler:
    """Deals the ranges of tensors out to workers. Safe from any thread."""

    def __init__(self, tensors: Sequence[PlannedTensor], chunk: int | None) -> None:
        self._chunk = chunk
        self._whole = deque(sorted(tensors, key=lambda tensor: count_elements(tensor.shape), reverse=True))
        self._begun: dict[int, deque[RowRange]] = {}  # by worker
        self._lock = threading.Lock()

    def next(self, worker: int) -> RowRange | None:
        """The next range for a worker; None when all are dealt out."""
        with self._lock:
            own = self._begun.get(worker)
            if not own:
                if self._whole:
                    own = deque(row_ranges(self._whole.popleft(), self._chunk))
                else:
                    own = max(self._begun.values(), key=len, default=None)
                if not own:
                    return None
                self._begun[worker] = own
            return own.popleft()
