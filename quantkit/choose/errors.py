"""How much of every tensor is lost in every type: one pass over a sample of the weights.

The error of a tensor is that to be expected of its layer's output: the squared differences of the weights, each times
the importance of its column (the mean square of the layer's input there), relative to the same sum of the weights
themselves. Inputs of different columns are taken as uncorrelated. The encoders are the build's own, on its own devices,
and the decoders libggml's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dtypes import Array, Floats, to_float32
from quantkit.checkpoint.tensor_file import new_memory
from quantkit.choose.digits import rounded
from quantkit.engine.backend import Backend, Target
from quantkit.engine.crew import opened_crew
from quantkit.engine.device import Workers
from quantkit.engine.rows import Rows
from quantkit.engine.stream import RowSource, importance_of
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.plan.mixture import Importance
from quantkit.plan.values import PlannedTensor

# Weights of a tensor that are looked at, and matrices of a stack of experts.
SAMPLE_WEIGHTS, SAMPLE_MATRICES = 1 << 18, 32
# Errors are kept with so many digits: sums of floats are not the same everywhere.
DIGITS = 4
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class TensorErrors:
    """What is lost of a tensor.

    Attributes:
        by_type: the relative squared error, by type.
        sampling: relative standard error of these for the rows that were not looked at; 0 if all were.
    """

    by_type: Mapping[GGMLType, float]
    sampling: float


def measure_errors(
    candidates: Mapping[PlannedTensor, Sequence[GGMLType]],
    source: RowSource,
    importance: Importance,
    workers: Workers,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, TensorErrors]:
    """The errors of tensors, by name.

    Args:
        candidates: the types to look at, by tensor; a tensor is stored in its outtype.
        source: where its rows come from.
        importance: by tensor name, float32, one per column (and expert); a tensor without is weighted evenly.
        workers: where to encode; the result does not depend on it.
        progress: called with 1 after each tensor.

    Raises:
        QuantkitError: rows cannot be read.
    """

    def measure(backend: Backend, tensor: PlannedTensor) -> TensorErrors:
        found = _measure(tensor, candidates[tensor], source, importance, backend)
        progress(1)
        return found

    with opened_crew(workers) as crew:
        return dict(zip([tensor.name for tensor in candidates], crew.map(measure, candidates), strict=True))


def sample_rows(tensor: PlannedTensor) -> list[list[int]]:
    """The rows of a tensor that are looked at, by matrix: all of a small one.

    They are spread by the golden ratio, so that no period of heads or blocks is met or missed, the same everywhere.
    """
    segment = tensor.segment
    matrices = _spread(tensor.rows // segment, SAMPLE_MATRICES)
    rows = _spread(segment, max(1, SAMPLE_WEIGHTS // (tensor.columns * len(matrices))))
    return [[matrix * segment + row for row in rows] for matrix in matrices]


def _spread(count: int, wanted: int) -> list[int]:
    """*wanted* of the numbers below *count*, or all of them, in order."""
    if wanted >= count:
        return list(range(count))
    found: set[int] = set()
    number = 0
    while len(found) < wanted:
        number += 1
        found.add(int(count * (number * _GOLDEN % 1)))
    return sorted(found)


def _measure(
    tensor: PlannedTensor,
    types: Sequence[GGMLType],
    source: RowSource,
    importance: Importance,
    backend: Backend,
) -> TensorErrors:
    sample = sample_rows(tensor)
    lost: dict[GGMLType, list[Array]] = {kind: [] for kind in types}
    whole: list[Array] = []
    for numbers in sample:
        weights = importance_of(tensor, numbers[0], importance)
        rows = _read(tensor, numbers, source)
        floats = to_float32(rows.stored)
        # Sums in double precision, row by row: a float32 sum would depend on how many are added at a time.
        columns = np.ones(tensor.columns) if weights is None else weights.astype(np.float64)
        whole.append(_weighted(floats, columns))
        for kind in types:
            decoded = decode(backend, rows, tensor, kind, weights)
            lost[kind].append(
                np.full(len(numbers), np.inf) if decoded is None else _weighted(floats - decoded, columns)
            )
    base = np.concatenate(whole)
    errors = {kind: np.concatenate(parts) for kind, parts in lost.items()}
    looked, rows_in_all = len(base), tensor.rows
    total = float(base.sum())
    return TensorErrors(
        {kind: rounded(float(part.sum()) / total if total else 0.0, DIGITS) for kind, part in errors.items()},
        0.0
        if looked == rows_in_all or not total
        else max(_sampling(part, base, rows_in_all) for part in errors.values()),
    )


def decode(
    backend: Backend, rows: Rows, tensor: PlannedTensor, kind: GGMLType, importance: Floats | None
) -> Floats | None:
    """Rows encoded and decoded, float32, shape [n, columns]; None if the type cannot hold them."""
    if kind is tensor.outtype:
        return to_float32(rows.stored)
    encoded = backend.encode(rows, tensor.outtype, tensor.columns, [Target(kind, importance)])
    if not encoded.data or encoded.too_large_for is not None:
        return None
    return ggml.dequantize_rows(kind, bytes(encoded.data[0]), tensor.columns)


def _read(tensor: PlannedTensor, numbers: Sequence[int], source: RowSource) -> Rows:
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return source.rows(tensor, numbers[0], numbers[-1] + 1, new_memory)
    return Rows(np.concatenate([source.rows(tensor, row, row + 1, new_memory).stored for row in numbers]))


def _weighted(rows: Floats, columns: npt.NDArray[np.float64]) -> Array:
    """The sum of the squares of each row, each times the weight of its column."""
    sums: Array = np.add.reduce(np.square(rows, dtype=np.float64) * columns, axis=1)
    return sums


def _sampling(errors: Array, base: Array, rows: int) -> float:
    """Relative standard error of the ratio of two sums over a sample of *rows* (Cochran, Sampling Techniques, 6.4)."""
    ratio, count = errors.sum() / base.sum(), len(base)
    if not ratio or not math.isfinite(ratio) or count < 2:
        return 0.0
    spread = float(np.square(errors - ratio * base).sum()) / (count - 1)
    return math.sqrt((1 - count / rows) * spread / count) / float(errors.mean())
