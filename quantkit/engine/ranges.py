"""How tensors are divided into ranges of rows, and which worker gets which range.

The division depends only on a tensor's shape, so the output does not depend on the workers. A worker stays with one
tensor as long as there are others for the other workers: its ranges then reach the tensor's hash and the file in
order. The largest tensors come first, and at the end all workers share what is left.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantkit.plan.values import PlannedTensor, count_elements

# The most and the fewest weights in a range on the processor; in between, an eighth of the tensor. Two cores prefer
# ranges whose buffers fit the cache; many workers prefer larger ones, because each needs Python's lock between two
# steps. Before ranges were encoded in strips, 8B on 16 cores took 13.5, 11.1 and 8.7 s for one, two and four million.
# Large models are built on large machines. Measured with scripts/bench.
CHUNK_WEIGHTS, LEAST_CHUNK_WEIGHTS = 1 << 22, 1 << 20
# On a device: large enough for copies at full speed and negligible overhead in Python.
DEVICE_CHUNK_WEIGHTS = 1 << 24
# From about 64 rows on, a float32 matrix product has the same bits for any number of rows.
_ROW_MULTIPLE = 64


@dataclass(frozen=True)
class RowRange:
    """A range of rows of one tensor, within one of its segments.

    Attributes:
        tensor: the tensor.
        index: the number of the range in the tensor.
        start: the first row.
        stop: the row after the last.
    """

    tensor: PlannedTensor
    index: int
    start: int
    stop: int


def row_ranges(tensor: PlannedTensor, chunk: int | None = None) -> Iterator[RowRange]:
    """Divide a tensor into ranges of about *chunk* weights, by its shape alone.

    Args:
        tensor: the tensor to divide.
        chunk: weights per range; None for the processor's default.
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
    """Assigns the ranges of tensors to workers. Safe from any thread."""

    def __init__(self, tensors: Sequence[PlannedTensor], chunk: int | None) -> None:
        self._chunk = chunk
        self._whole = deque(sorted(tensors, key=lambda tensor: count_elements(tensor.shape), reverse=True))
        self._begun: dict[int, deque[RowRange]] = {}  # by worker
        self._lock = threading.Lock()

    def next(self, worker: int) -> RowRange | None:
        """The next range for a worker; None when all are assigned."""
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
