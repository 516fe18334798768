"""How far each encoded tensor is from the reference's, decoded by libggml row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dtypes import BY_TYPE, to_float32
from quantkit.engine.gguf_source import GGUFSource, gguf_tensors, open_source
from quantkit.ggml import library as ggml
from quantkit.gguf.model import read_whole_model
from quantkit.plan.values import PlannedTensor

_STRIP = 1 << 19  # weights that are decoded at a time


@dataclass(frozen=True)
class TensorError:
    """The error of a tensor.

    Attributes:
        name: the tensor.
        type: the type it is encoded in, in lower case.
        error: the root of the sum of squared differences from the reference's, divided by that of its squares; 0 if the
            reference's is zero everywhere and so is this one.
    """

    name: str
    type: str
    error: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def tensor_errors(
    reference: Path, file: Path, threads: int = 1, progress: Callable[[int], None] = lambda count: None
) -> list[TensorError]:
    """The error of every tensor that both files have, in the file's order.

    Memory stays at a strip of rows for each thread, and the result does not depend on their number.

    Args:
        reference, file: GGUF files of one model.
        threads: threads that share the tensors.
        progress: called with the number of weights after each tensor.

    Raises:
        GGUFError: a file is broken.
    """
    theirs, ours = read_whole_model(reference), read_whole_model(file)
    with open_source(theirs) as right, open_source(ours) as left, ThreadPoolExecutor(threads) as pool:
        wanted = {tensor.name: tensor for tensor in gguf_tensors(theirs)}
        pairs = [
            (tensor, wanted[tensor.name])
            for tensor in gguf_tensors(ours)
            if tensor.name in wanted and tensor.shape == wanted[tensor.name].shape and _readable(tensor)
        ]

        def error(pair: tuple[PlannedTensor, PlannedTensor]) -> TensorError:
            found = _error(left, right, *pair)
            progress(math.prod(pair[0].shape))
            return TensorError(pair[0].name, pair[0].outtype.label.lower(), found)

        return list(pool.map(error, pairs))


def _readable(tensor: PlannedTensor) -> bool:
    return tensor.outtype in BY_TYPE or ggml.can_dequantize(tensor.outtype)


def _error(left: GGUFSource, right: GGUFSource, own: PlannedTensor, reference: PlannedTensor) -> float:
    difference = whole = 0.0
    for mine, theirs in zip(_strips(left, own), _strips(right, reference), strict=True):
        off = mine - theirs
        difference += float(np.square(off, dtype=np.float64).sum())
        whole += float(np.square(theirs, dtype=np.float64).sum())
    return math.sqrt(difference / whole) if whole else math.sqrt(difference)


def _strips(source: GGUFSource, tensor: PlannedTensor) -> Iterator[npt.NDArray[np.float32]]:
    step = max(1, _STRIP // tensor.columns)
    for start in range(0, tensor.rows, step):
        stored = source.rows(tensor, start, min(start + step, tensor.rows)).stored
        if tensor.outtype in BY_TYPE:
            yield to_float32(stored)
        else:
            yield ggml.dequantize_rows(tensor.outtype, stored.tobytes(), tensor.columns)
