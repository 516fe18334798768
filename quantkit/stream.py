"""The engine: every tensor once, from the source to all outputs.

A pool of workers, and no queues: each worker takes the next range of rows and carries it the whole way (read, merge,
arrange, round, encode for each output, write at its offset, hash). While one waits for the disk the others compute, so
reading, merging, encoding and writing overlap by themselves, and memory is one range a worker. The ranges are fixed by
the tensor's shape alone: the same inputs give the same bytes for any number of workers.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from quantkit import ggml
from quantkit.errors import OverflowsF16Error, QuantizationError, QuantkitError
from quantkit.ggml_types import GGMLType
from quantkit.kernels import encode
from quantkit.output_file import Bytes, OrderedDigest, OutputFile
from quantkit.plan import Output, PlannedTensor

# Weights in a range: large enough that a range's overhead is nothing, small enough that its buffers stay in the
# processor's cache between the steps. Measured with scripts/bench.
CHUNK_WEIGHTS = 1 << 20
# A float32 product keeps its bits from about 64 rows up, so ranges are whole multiples of it.
_ROW_MULTIPLE = 64

_TORCH = {GGMLType.F32: torch.float32, GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16}
# The smallest magnitude that rounds to infinity in each base type.
_OVERFLOW = {GGMLType.F16: 65520.0, GGMLType.BF16: float.fromhex("0x1.ffp127"), GGMLType.F32: math.inf}

Progress = Callable[[int], None]


class RowSource(Protocol):
    """Where rows come from."""

    def rows(self, tensor: PlannedTensor, start: int, stop: int) -> torch.Tensor:
        """Rows ``start:stop`` as float32, in the output's layout; where the tensor's base is a quantized type, its
        bytes, uint8. Called from many threads."""

    def blame(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        """The error for input values that are not finite in these rows; None when the input is sound."""


@dataclass(frozen=True)
class Piece:
    """A range of rows of one tensor, within one segment of it; ``index`` counts the tensor's ranges."""

    tensor: PlannedTensor
    index: int
    start: int
    stop: int


def pieces(tensor: PlannedTensor) -> Iterator[Piece]:
    """Cut a tensor into ranges of about ``CHUNK_WEIGHTS``, by its shape alone."""
    unit = math.lcm(tensor.unit, _ROW_MULTIPLE)
    step = max(1, CHUNK_WEIGHTS // (tensor.columns * unit)) * unit
    index = itertools.count()
    for first in range(0, tensor.rows, tensor.segment):
        end = first + tensor.segment
        for start in range(first, end, step):
            yield Piece(tensor, next(index), start, min(end, start + step))


def stream(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: RowSource,
    folder: Path,
    *,
    threads: int,
    shown: Path | None = None,
    wider: str = "--outtype",
    progress: Progress = lambda nbytes: None,
) -> dict[str, dict[str, str]]:
    """Stream every tensor once into all outputs.

    Args:
        tensors: what to stream; an output takes those it has a place for.
        outputs: the files; they must not exist.
        source: where rows come from.
        folder: where the files are made.
        threads: workers.
        shown: the folder to speak of in errors, where *folder* is a temporary one.
        wider: the option that asks for a wider type, for the hint when a value does not fit.
        progress: called with the number of weights done, from many threads.

    Returns:
        By file, by tensor: sha256 of the tensor's bytes.

    Raises:
        QuantkitError: the first error of any worker; the files are then incomplete.
    """
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers are the parallelism
    files: dict[str, OutputFile] = {}
    try:
        for output in outputs:
            named = (shown or folder) / output.file
            files[output.file] = OutputFile(folder / output.file, output.header, output.nbytes, shown=named)
        job = _Job(tensors, outputs, source, files, progress, wider)
        job.run(threads)
    finally:
        for file in files.values():
            file.close()
        torch.set_num_threads(torch_threads)
    return {
        output.file: {name: job.digests[output.file, name].hexdigest() for name in output.tensors} for output in outputs
    }


class _Job:
    """One run of the engine."""

    def __init__(
        self,
        tensors: Sequence[PlannedTensor],
        outputs: Sequence[Output],
        source: RowSource,
        files: Mapping[str, OutputFile],
        progress: Progress,
        wider: str,
    ) -> None:
        self.outputs, self.source, self.files, self.progress = outputs, source, files, progress
        self.wider = wider
        self.digests = {(output.file, name): OrderedDigest() for output in outputs for name in output.tensors}
        self._pieces = (piece for tensor in tensors for piece in pieces(tensor))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(self, threads: int) -> None:
        """Run the workers; when this returns or raises, none of them works any more."""
        ended = [threading.Event() for _ in range(threads)]
        # Not daemons: one that the interpreter's end cuts off inside a tensor operation takes the process down.
        workers = [threading.Thread(target=self._work, args=(event,)) for event in ended]
        try:
            for worker in workers:
                worker.start()
            for worker, event in zip(workers, ended, strict=True):
                # Not only Thread.join: interrupted, it takes the thread for ended in Python 3.11. And no wait
                # without a time limit, which could not be interrupted.
                while not event.wait(0.1):
                    pass
                worker.join()
        except BaseException:
            self._stop.set()  # a worker that has only just begun does nothing then
            for worker, event in zip(workers, ended, strict=True):
                while worker.ident is not None and not event.is_set():
                    with contextlib.suppress(KeyboardInterrupt):
                        event.wait(0.1)
            raise
        if self._errors:
            raise self._errors[0]

    def _work(self, ended: threading.Event) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    piece = next(self._pieces, None)
                if piece is None:
                    return
                self._carry(piece)
                self.progress((piece.stop - piece.start) * piece.tensor.columns)
        except BaseException as error:  # reported by run(), in the main thread
            self._errors.append(error)
            self._stop.set()
        finally:
            ended.set()

    def _carry(self, piece: Piece) -> None:
        """One range the whole way."""
        tensor = piece.tensor
        rows = self.source.rows(tensor, piece.start, piece.stop)
        self._check(piece, rows)
        rounded = rows.to(_TORCH.get(tensor.base, rows.dtype))
        floats: torch.Tensor | None = None
        for output in self.outputs:
            place = output.tensors.get(tensor.name)
            if place is None:
                continue
            if place.type is tensor.base:
                data: Bytes = as_bytes(rounded)
            else:
                if floats is None:
                    floats = _floats(tensor, rounded)
                data = _encode(place.type, floats, piece, output.importance.get(tensor.name))
                if not ggml.is_valid(place.type, data):
                    raise QuantizationError(
                        f"tensor {tensor.name!r} has values up to {float(floats.abs().max()):g}, too large for "
                        f"{place.type.label}",
                        hint="choose bf16, which holds every float32 magnitude",
                    )
            row_nbytes = place.nbytes // tensor.rows
            self.files[output.file].write(place.offset + piece.start * row_nbytes, data)
            self.digests[output.file, tensor.name].update(piece.index, data)

    def _check(self, piece: Piece, rows: torch.Tensor) -> None:
        """Refuse rows that are not finite or would not be after rounding."""
        base = piece.tensor.base
        if base not in _TORCH:
            error = self.source.blame(piece.tensor, piece.start, piece.stop)
            if error is not None and not ggml.is_valid(base, as_bytes(rows)):
                raise error
            return
        low, high = (float(value) for value in rows.aminmax())
        if -_OVERFLOW[base] < low and high < _OVERFLOW[base]:
            return
        if error := self.source.blame(piece.tensor, piece.start, piece.stop):
            raise error
        name, largest = piece.tensor.sources[0], max(abs(low), abs(high))
        if not math.isfinite(largest):
            raise OverflowsF16Error(
                f"tensor {name!r}: the merged values are NaN or infinite in f32",
                hint="look at the adapter: its scaling (lora_alpha / r) or its weights are too large",
            )
        raise OverflowsF16Error(
            f"tensor {name!r} has a value of {largest:g}, too large for {base.label}",
            hint=f"pass {self.wider} {'bf16' if base is GGMLType.F16 else 'f32'}",
        )


def _floats(tensor: PlannedTensor, stored: torch.Tensor) -> torch.Tensor:
    """Rows in the tensor's base type as float32, on the CPU."""
    if tensor.base in _TORCH:
        return stored.float().cpu()
    return torch.from_numpy(ggml.dequantize_rows(tensor.base, as_bytes(stored), tensor.columns))


def _encode(kind: GGMLType, floats: torch.Tensor, piece: Piece, importance: npt.NDArray[np.float32] | None) -> Bytes:
    """Encode rows; stacked experts have an importance each."""
    columns = floats.shape[1]
    if importance is not None and importance.size != columns:
        importance = importance.reshape(-1, columns)[piece.start // piece.tensor.shape[-2]]
    return encode(kind, floats, importance)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor, on the CPU."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data
