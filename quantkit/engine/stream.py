"""The engine: every tensor once, from the source to all outputs.

A pool of workers, and no queues: each worker takes the next range of rows and carries it the whole way (read, merge,
arrange, round, encode for each output, write at its offset, hash). While one waits for the disk or a device the others
go on, so reading, copying, computing and writing overlap by themselves, and memory is one range a worker. Workers on
CUDA devices do the same steps as those on the processor; :mod:`quantkit.engine.backend` is the difference.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.tensor_file import Memory
from quantkit.engine.backend import Backend, Encoded, Target
from quantkit.engine.device import Device, Workers
from quantkit.engine.output_files import Keeping, OutputFiles
from quantkit.engine.ranges import RowRange, Scheduler
from quantkit.engine.rows import Rows
from quantkit.engine.timeline import NoTimeline
from quantkit.errors import OutOfRangeError, QuantizationError, QuantkitError
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels.rounding import OVERFLOW
from quantkit.plan.mixture import Importance
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

Progress = Callable[[int], None]
NOTHING_KEPT = Keeping()


class RowSource(Protocol):
    """Where rows come from."""

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory) -> Rows:
        """Rows ``start:stop``, in the output's layout. Called from many threads, each with its own *memory* to read
        into, which is valid until it is asked for again."""

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        """The error for input values that are not finite in these rows; None when the input is sound."""


def stream(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: RowSource,
    folder: Path,
    *,
    workers: Workers,
    shown: Path | None = None,
    wider: str = "--outtype",
    progress: Progress = lambda nbytes: None,
    exist: bool = False,
    keeping: Keeping = NOTHING_KEPT,
) -> dict[str, dict[str, str]]:
    """Stream every tensor once into all outputs.

    Args:
        tensors: what to stream; an output takes those it has a place for.
        outputs: the files; they must not exist, unless *exist*, or they have begun.
        source: where rows come from.
        folder: where the files are made.
        workers: how many, and where they compute.
        shown: the folder to speak of in errors, where *folder* is a temporary one.
        wider: the option that asks for a wider type, for the hint when a value does not fit.
        progress: called with the number of weights done, from many threads.
        exist: another process has created the files, and these tensors may be some of theirs.
        keeping: what is kept so that the stream can be continued, and where it continues.

    Returns:
        By file, by tensor: sha256 of the tensor's bytes.

    Raises:
        QuantkitError: the first error of any worker; the files are then incomplete.
    """
    files = OutputFiles(outputs, folder, shown or folder, keeping, exist=exist)
    try:
        _Job(tensors, outputs, source, files, workers, progress, wider, keeping).run()
    finally:
        files.close()
    streamed = {tensor.name for tensor in tensors}
    return {
        output.file: {name: sha256 for name, sha256 in files.digests(output).items() if not exist or name in streamed}
        for output in outputs
    }


class _Job:
    """One run of the engine."""

    def __init__(
        self,
        tensors: Sequence[PlannedTensor],
        outputs: Sequence[Output],
        source: RowSource,
        files: OutputFiles,
        workers: Workers,
        progress: Progress,
        wider: str,
        keeping: Keeping,
    ) -> None:
        self.outputs, self.source, self.files, self.progress = outputs, source, files, progress
        self.workers, self.wider, self.keeping = workers, wider, keeping
        self._scheduler = Scheduler(tensors, workers.chunk)
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Run the workers; when this returns or raises, none of them works any more."""
        ended = [threading.Event() for _ in range(self.workers.threads)]
        # Not daemons: one that the interpreter's end cuts off inside a tensor operation takes the process down.
        workers = [
            threading.Thread(target=self._work, args=(number, event), name=f"stream-{number}")
            for number, event in enumerate(ended)
        ]
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
            self._halt()  # a worker that has only just begun does nothing then
            for worker, event in zip(workers, ended, strict=True):
                while worker.ident is not None and not event.is_set():
                    with contextlib.suppress(KeyboardInterrupt):
                        event.wait(0.1)
                if worker.ident is not None:
                    with contextlib.suppress(KeyboardInterrupt):
                        worker.join()  # it has done its last step
            raise
        if self._errors:
            raise self._errors[0]

    def _halt(self) -> None:
        self._stop.set()
        self.files.abandon()

    def _work(self, number: int, ended: threading.Event) -> None:
        try:
            devices = self.workers.devices
            backend = open_backend(devices[number % len(devices)], f"worker {number:02}", self.workers.timeline)
            # What is not finite is found by _check and refused by name: numpy need not warn of it.
            with np.errstate(all="ignore"), backend.active():
                while not self._stop.is_set():
                    row_range = self._scheduler.next(number)
                    if row_range is None:
                        return
                    self._carry(row_range, backend)
                    self.progress((row_range.stop - row_range.start) * row_range.tensor.columns)
        except BaseException as error:  # reported by run(), in the main thread
            self._errors.append(error)
            self._halt()
        finally:
            ended.set()

    def _carry(self, row_range: RowRange, backend: Backend) -> None:
        """One range the whole way."""
        tensor = row_range.tensor
        found = places(self.outputs, tensor)
        wanted = [(output, slot) for output, slot in found if self.files.lacks(output, row_range)]
        if found and not wanted and not self.keeping.measures(tensor):
            return
        targets = [target(output, slot, row_range) for output, slot in wanted]
        with backend.span("read"):
            rows = self.source.rows(tensor, row_range.start, row_range.stop, backend.memory)
        if found and not wanted:
            return
        encoded = backend.encode(rows, tensor.outtype, tensor.columns, targets)
        self._check(row_range, rows, encoded)
        pieces = [(*place, data) for place, data in zip(wanted, encoded.data, strict=True)]
        self.files.put(row_range, pieces, backend.span)

    def _check(self, row_range: RowRange, rows: Rows, encoded: Encoded) -> None:
        """Refuse rows that are not finite, or would not be after rounding or encoding."""
        tensor, largest = row_range.tensor, encoded.largest
        if tensor.outtype not in OVERFLOW:
            error = self.source.explain_non_finite(tensor, row_range.start, row_range.stop)
            if error is not None and not ggml.is_valid(tensor.outtype, rows.stored.tobytes()):
                raise error
        elif not largest < OVERFLOW[tensor.outtype]:
            raise self._out_of_range(row_range, largest)
        if encoded.too_large_for is not None:
            raise QuantizationError(
                f"tensor {tensor.name!r} has values up to {largest:g}, too large for {encoded.too_large_for.label}",
                hint="choose bf16, which holds every float32 magnitude",
            )

    def _out_of_range(self, row_range: RowRange, largest: float) -> QuantkitError:
        if error := self.source.explain_non_finite(row_range.tensor, row_range.start, row_range.stop):
            return error
        name, outtype = row_range.tensor.sources[0], row_range.tensor.outtype
        if not math.isfinite(largest):
            return OutOfRangeError(
                f"tensor {name!r}: the merged values are NaN or infinite in f32",
                hint="look at the adapter: its scaling (lora_alpha / r) or its weights are too large",
            )
        return OutOfRangeError(
            f"tensor {name!r} has a value of {largest:g}, too large for {outtype.label}",
            hint=f"pass {self.wider} {'bf16' if outtype is GGMLType.F16 else 'f32'}",
        )


def open_backend(device: Device, name: str, timeline: NoTimeline) -> Backend:
    """Return a backend for one worker."""
    if device.kind == "cpu":
        return Backend(name, timeline)
    from quantkit.engine.cuda_backend import CudaBackend

    return CudaBackend(device.index, name, timeline)


def places(outputs: Sequence[Output], tensor: PlannedTensor) -> list[tuple[Output, TensorSlot]]:
    """The outputs that have a place for a tensor, and the place."""
    return [(output, slot) for output in outputs if (slot := output.tensors.get(tensor.name))]


def target(output: Output, slot: TensorSlot, row_range: RowRange) -> Target:
    """What an output wants of a range."""
    return Target(slot.type, importance_of(row_range.tensor, row_range.start, output.importance))


def importance_of(tensor: PlannedTensor, row: int, importance: Importance) -> npt.NDArray[np.float32] | None:
    """The importance of each column for a row of a tensor; stacked experts have one each."""
    found = importance.get(tensor.name)
    if found is None or found.size == tensor.columns:
        return found
    own: npt.NDArray[np.float32] = found.reshape(-1, tensor.columns)[row // tensor.shape[-2]]
    return own
