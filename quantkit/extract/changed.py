"""What training changed of each tensor, computed a tensor at a time, several tensors side by side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from quantkit.checkpoint.dtypes import Array, all_finite, to_float32
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import CheckpointError
from quantkit.extract.factors import Factors, of_error, of_rank
from quantkit.extract.pairs import Pair, Way

_ROWS = 1024
# Half of the largest relative error of rounding to a type: about the root of its mean square. Sums that were made in
# float32 were rounded several times.
_HALF_ROUNDINGS = {"F32": 2.0**-22, "F16": 2.0**-12, "BF16": 2.0**-10}


@dataclass(frozen=True)
class Changed:
    """A tensor that training changed.

    Attributes:
        pair: which.
        change: Frobenius norm of the difference over the base's (infinite where that is zero).
        factors: of the difference, where the adapter has it as LoRA.
    """

    pair: Pair
    change: float
    factors: Factors | None = None

    @property
    def error(self) -> float:
        """What the adapter leaves of the difference, relative."""
        return self.factors.error if self.factors else 0.0


def changed_tensors(
    base: Checkpoint,
    tuned: Checkpoint,
    wanted: Sequence[Pair],
    *,
    rank: int | None,
    error: float | None,
    workers: int,
    advance: Callable[[int], None],
) -> Iterator[Changed]:
    """Each tensor whose values differ, in order; about 24 bytes of memory per weight of a matrix and worker.

    Args:
        base: the model before the training.
        tuned: the model after it.
        wanted: the tensors.
        rank: of each matrix's factors at most; or
        error: what they may leave of each matrix's difference, relative.
        workers: how many tensors are computed at a time. Does not change the result.
        advance: called with the weights that are done.

    Raises:
        CheckpointError: a value is not finite, or what changed cannot be in an adapter.
    """

    def one(pair: Pair) -> Changed | None:
        if ended.is_set():
            return None
        try:
            return _changed(base, tuned, pair, rank, error)
        finally:
            advance(int(np.prod(base.tensors[pair.name].shape)))

    ended = threading.Event()
    with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
        try:
            ahead: deque[Future[Changed | None]] = deque()
            for pair in wanted:
                ahead.append(pool.submit(one, pair))
                if len(ahead) > workers and (found := ahead.popleft().result()) is not None:
                    yield found
            for future in ahead:
                if (found := future.result()) is not None:
                    yield found
        finally:
            ended.set()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _changed(base: Checkpoint, tuned: Checkpoint, pair: Pair, rank: int | None, error: float | None) -> Changed | None:
    name = pair.name
    shape = base.tensors[name].shape
    delta = np.empty(shape, np.float32) if pair.way is Way.LORA else None
    difference = whole = after = 0.0
    for start, stop in _ranges(shape):
        one, other = (_finite(checkpoint, name, start, stop) for checkpoint in (base, tuned))
        rows = other - one
        difference += float(np.sum(np.square(rows, dtype=np.float64)))
        whole += float(np.sum(np.square(one, dtype=np.float64)))
        after += float(np.sum(np.square(other, dtype=np.float64)))
        if delta is not None:
            delta[start:stop] = rows
    if difference == 0:
        return None
    if pair.way is None:
        raise CheckpointError(
            f"{tuned.path}: tensor {name!r} {list(shape)} differs from the base's, and an adapter cannot change it",
            hint="build the whole model instead: quantkit build TUNED",
        )
    change = sqrt(difference / whole) if whole else float("inf")
    if delta is None:
        return Changed(pair, change)
    matrix = torch.from_numpy(delta)
    if rank is not None:
        return Changed(pair, change, of_rank(matrix, rank, _rounding(tuned.tensors[name], sqrt(after))))
    assert error is not None
    return Changed(pair, change, of_error(matrix, error))


def _rounding(spec: TensorSpec, norm: float) -> float:
    """About the largest singular value of the rounding errors of a matrix with this norm, all else being chance."""
    out, width = spec.shape
    return _HALF_ROUNDINGS[spec.dtype] * norm / sqrt(out * width) * (sqrt(out) + sqrt(width))


def _ranges(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    rows = shape[0] if shape else 1
    return ((start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS))


def _finite(checkpoint: Checkpoint, name: str, start: int, stop: int) -> Array:
    stored = checkpoint.read(name, start, stop)
    if not all_finite(stored):
        raise CheckpointError(f"{checkpoint.tensors[name].file}: tensor {name!r} contains NaN or infinite values")
    return to_float32(stored)
