"""The engine: streams every tensor once, from the source to all outputs.

There is a pool of workers and no queue: each worker takes the next range of rows through all steps (read, merge,
arrange, round, encode for each output, write at its offset, hash). While one waits for the disk or a device the others
continue, so reading, copying, computing and writing overlap, and memory is one range per worker. Workers on CUDA
devices take the same steps as those on the processor; :mod:`quantkit.engine.backend` makes the difference.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from quantkit.checkpoint.dtypes import TORCH_DTYPES
from quantkit.engine.backend import Backend, as_bytes, open_backend
from quantkit.engine.device import Workers
from quantkit.engine.ranges import CHUNK_WEIGHTS, RowRange, Scheduler
from quantkit.errors import OutOfRangeError, QuantizationError, QuantkitError
from quantkit.files.output_file import Bytes, OrderedDigest, OutputFile
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels.encode import encode
from quantkit.kernels.validity import all_finite
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

# The smallest magnitude that rounds to infinity in each type.
_OVERFLOW = {GGMLType.F16: 65520.0, GGMLType.BF16: float.fromhex("0x1.ffp127"), GGMLType.F32: math.inf}

Progress = Callable[[int], None]


class RowSource(Protocol):
    """Where rows come from."""

    def rows(self, tensor: PlannedTensor, start: int, stop: int, backend: Backend) -> torch.Tensor:
        """Read rows ``start:stop`` in the output's layout. Called from many threads, each with its own backend.

        Returns:
            float32 [rows, columns] on the device of *backend*; of a tensor that is stored quantized, uint8
            [rows, bytes per row] on the host.
        """

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        """The error for input values in these rows that are not finite; None if all are."""


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
) -> dict[str, dict[str, str]]:
    """Stream every tensor once into all outputs.

    Args:
        tensors: the tensors to stream; each output takes those that it has a slot for.
        outputs: the files to write; they must not exist.
        source: provides the rows.
        folder: the folder to write the files in.
        workers: the number of workers and their devices.
        shown: the folder to name in errors if *folder* is a temporary one.
        wider: the option that chooses a wider type, for the hint if a value does not fit.
        progress: called with the number of weights done, from many threads.

    Returns:
        By file and tensor, the sha256 of the tensor's bytes.

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
        job = _Job(tensors, outputs, source, files, workers, progress, wider)
        job.run()
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
        workers: Workers,
        progress: Progress,
        wider: str,
    ) -> None:
        self.outputs, self.source, self.files, self.progress = outputs, source, files, progress
        self.workers, self.wider = workers, wider
        self.digests = {(output.file, name): OrderedDigest() for output in outputs for name in output.tensors}
        self._scheduler = Scheduler(tensors, workers.chunk)
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Run the workers; when this returns or raises, all of them have stopped."""
        ended = [threading.Event() for _ in range(self.workers.threads)]
        # Not daemons: the interpreter's end inside a tensor operation would crash the process.
        workers = [threading.Thread(target=self._work, args=each) for each in enumerate(ended)]
        try:
            for worker in workers:
                worker.start()
            for worker, event in zip(workers, ended, strict=True):
                # Thread.join alone is not enough: after an interrupt Python 3.11 takes the thread for ended. A wait
                # without a time limit could not be interrupted.
                while not event.wait(0.1):
                    pass
                worker.join()
        except BaseException:
            self._halt()  # a worker that has just started does nothing then
            for worker, event in zip(workers, ended, strict=True):
                while worker.ident is not None and not event.is_set():
                    with contextlib.suppress(KeyboardInterrupt):
                        event.wait(0.1)
            raise
        if self._errors:
            raise self._errors[0]

    def _halt(self) -> None:
        self._stop.set()
        for digest in self.digests.values():
            digest.abandon()

    def _work(self, number: int, ended: threading.Event) -> None:
        try:
            devices = self.workers.devices
            backend = open_backend(devices[number % len(devices)], f"worker {number:02}", self.workers.timeline)
            with backend.active():
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
        """Take one range through all steps."""
        tensor = row_range.tensor
        rows = self.source.rows(tensor, row_range.start, row_range.stop, backend)
        with backend.span("round", computes=True):
            self._check(row_range, rows)
            rounded = rows.to(TORCH_DTYPES.get(tensor.outtype, rows.dtype)).contiguous()
        del rows
        on_host = _OnHost(row_range, rounded, backend)
        for output in self.outputs:
            at = output.tensors.get(tensor.name)
            if at is None:
                continue
            importance = output.importance.get(tensor.name)
            if at.type is tensor.outtype:
                data: Bytes = backend.fetch(rounded)
            elif importance is None and (encoded := backend.encode(at.type, rounded)) is not None:
                _refuse_invalid(at.type, tensor, rounded, valid=all_finite(at.type, encoded))
                data = backend.fetch(encoded)
            else:
                data = on_host.encode(at.type, importance)
            self._put(row_range, output, at, data, backend)

    def _put(self, row_range: RowRange, output: Output, at: TensorSlot, data: Bytes, backend: Backend) -> None:
        """Write a range at its offset and add it to the tensor's hash."""
        name = row_range.tensor.name
        row_nbytes = at.nbytes // row_range.tensor.rows
        with backend.span("write"):
            self.files[output.file].write(at.offset + row_range.start * row_nbytes, data)
        with backend.span("hash"):
            self.digests[output.file, name].update(row_range.index, data)

    def _check(self, row_range: RowRange, rows: torch.Tensor) -> None:
        """Refuse rows that are not finite, or not after rounding."""
        outtype = row_range.tensor.outtype
        if outtype not in TORCH_DTYPES:
            error = self.source.explain_non_finite(row_range.tensor, row_range.start, row_range.stop)
            if error is not None and not ggml.is_valid(outtype, as_bytes(rows)):
                raise error
            return
        low, high = (float(value) for value in rows.aminmax())
        if -_OVERFLOW[outtype] < low and high < _OVERFLOW[outtype]:
            return
        if error := self.source.explain_non_finite(row_range.tensor, row_range.start, row_range.stop):
            raise error
        name, largest = row_range.tensor.sources[0], max(abs(low), abs(high))
        if not math.isfinite(largest):
            raise OutOfRangeError(
                f"tensor {name!r}: the merged values are NaN or infinite in f32",
                hint="check the adapter: its scaling (lora_alpha / r) or its weights are too large",
            )
        raise OutOfRangeError(
            f"tensor {name!r} has a value of {largest:g}, too large for {outtype.label}",
            hint=f"pass {self.wider} {'bf16' if outtype is GGMLType.F16 else 'f32'}",
        )


class _OnHost:
    """The values of one range on the host, for the encoders there."""

    def __init__(self, row_range: RowRange, rounded: torch.Tensor, backend: Backend) -> None:
        self.row_range, self.rounded, self.backend = row_range, rounded, backend
        self._floats: torch.Tensor | None = None

    def encode(self, kind: GGMLType, importance: npt.NDArray[np.float32] | None) -> Bytes:
        """Encode the range.

        Args:
            kind: the type.
            importance: float32 [columns], or [experts * columns] for stacked experts, or None.

        Raises:
            QuantizationError: a value is too large for the type.
        """
        tensor, floats = self.row_range.tensor, self._values()
        columns = floats.shape[1]
        if importance is not None and importance.size != columns:
            importance = importance.reshape(-1, columns)[self.row_range.start // tensor.shape[-2]]
        step = max(1, CHUNK_WEIGHTS // columns)
        with self.backend.span("encode on the host"):
            parts = [encode(kind, some, importance) for some in torch.split(floats, step)]
        data = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        _refuse_invalid(kind, tensor, floats, valid=ggml.is_valid(kind, data))
        return data

    def _values(self) -> torch.Tensor:
        """float32 [rows, columns], in their own memory."""
        if self._floats is None:
            outtype = self.row_range.tensor.outtype
            if outtype not in TORCH_DTYPES:
                data, columns = self.backend.fetch(self.rounded), self.row_range.tensor.columns
                self._floats = torch.from_numpy(ggml.dequantize_rows(outtype, data, columns))
            elif self.rounded.device.type == "cpu":
                self._floats = self.rounded.float()
            else:
                stored = torch.frombuffer(self.backend.fetch(self.rounded), dtype=TORCH_DTYPES[outtype])
                stored = stored.reshape(self.rounded.shape)
                self._floats = stored.clone() if outtype is GGMLType.F32 else stored.float()
        return self._floats


def _refuse_invalid(kind: GGMLType, tensor: PlannedTensor, values: torch.Tensor, *, valid: bool) -> None:
    """Refuse encoded values whose scales are not finite."""
    if not valid:
        raise QuantizationError(
            f"tensor {tensor.name!r} has values up to {float(values.float().abs().max()):g}, too large for "
            f"{kind.label}",
            hint="choose bf16, which holds every float32 magnitude",
        )
