"""Where a worker computes: on the processor, or on a CUDA device with its own stream and pinned memory.

The engine and its sources take the same steps on every backend. The backend provides what differs: memory to read
into, copies to the device and back, and encoders. Work on a device is asynchronous until :meth:`Backend.fetch` waits
for it. Workers never wait for each other, so the copies and kernels of others run while one waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from quantkit.checkpoint.dtypes import GGML_TYPES
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.errors import QuantkitError
from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import decided
from quantkit.kernels.formats import FORMATS


class Backend:
    """The processor; no copies are needed.

    Attributes:
        device: the device that computes.
        name: the worker's name on the timeline.
        timeline: records what the worker does.
    """

    device = torch.device("cpu")

    def __init__(self, name: str = "worker", timeline: NoTimeline = NO_TIMELINE) -> None:
        self.name, self.timeline = name, timeline

    @contextmanager
    def active(self) -> Iterator[None]:
        """Enter this in the worker's thread for as long as it works."""
        yield

    def memory(self, nbytes: int) -> torch.Tensor:
        """Host memory to read into, uint8 [nbytes]; valid until the next call of this or of :meth:`fetch`."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor from the host to the device."""
        return tensor

    def fetch(self, tensor: torch.Tensor) -> memoryview:
        """Copy the bytes of a tensor to the host; valid until the next call of this or of :meth:`memory`."""
        return as_bytes(tensor)

    def encode(self, kind: GGMLType, rows: torch.Tensor) -> torch.Tensor | None:
        """Encode rows on the device.

        Args:
            kind: the type.
            rows: float32, float16 or bfloat16 [n, columns], on the device, contiguous; columns a multiple of the
                type's block.

        Returns:
            uint8, shape [blocks, bytes per block], on the device; None if the host must encode them.
        """
        return None

    def span(self, name: str, *, computes: bool = False) -> AbstractContextManager[None]:
        """A step on the timeline; *computes* says that the device does its work."""
        return self.timeline.span(self.name, name)


class CudaBackend(Backend):
    """One worker's part of a CUDA device.

    One pinned buffer serves a range from start to end: the input is on the device before the first encoded bytes come
    back.
    """

    def __init__(self, device: torch.device, name: str = "worker", timeline: NoTimeline = NO_TIMELINE) -> None:
        super().__init__(name, timeline)
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pinned = torch.empty(0, dtype=torch.uint8)
        self._in_flight = False
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        try:
            with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
                if self.timeline.on:
                    self._zero = self._mark()
                    self._stream.synchronize()
                    self._zero_time = time.perf_counter()
                yield
        except torch.OutOfMemoryError:
            raise QuantkitError(
                f"{self.device}: out of memory", hint="pass a smaller --threads, or --device cpu"
            ) from None
        except torch.AcceleratorError as error:
            reason = str(error).partition("\n")[0]
            raise QuantkitError(f"{self.device}: {reason}", hint="pass --device cpu") from None

    def memory(self, nbytes: int) -> torch.Tensor:
        if self._in_flight:  # a copy from the buffer may still be running
            self._wait()
        return self._buffer(nbytes)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        with self.span("copy in", computes=True):
            self._in_flight = True
            return tensor.to(self.device, non_blocking=True)

    def fetch(self, tensor: torch.Tensor) -> memoryview:
        if tensor.device.type == "cpu":
            return as_bytes(tensor)
        with self.span("copy out", computes=True):
            raw = tensor.contiguous().reshape(-1).view(torch.uint8)
            buffer = self._buffer(raw.numel())
            buffer.copy_(raw, non_blocking=True)
            self._wait()
        return buffer.numpy().data

    def encode(self, kind: GGMLType, rows: torch.Tensor) -> torch.Tensor | None:
        from quantkit.kernels import loaded

        if rows.device.type == "cpu" or kind not in FORMATS or not decided(rows):
            return None
        with self.span("encode", computes=True):
            return loaded.encoder(self.device, kind, GGML_TYPES[rows.dtype]).encode(kind, rows)

    def span(self, name: str, *, computes: bool = False) -> AbstractContextManager[None]:
        if computes and self.timeline.on:
            return self._both(name)
        return self.timeline.span(self.name, name)

    def _buffer(self, nbytes: int) -> torch.Tensor:
        if self._pinned.numel() < nbytes:
            self._pinned = torch.empty(0, dtype=torch.uint8)  # free the old buffer first
            self._pinned = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        return self._pinned[:nbytes]

    def _wait(self) -> None:
        self._stream.synchronize()
        self._in_flight = False
        for mark in self._marks:
            self._add(*mark)
        self._marks = []

    @contextmanager
    def _both(self, name: str) -> Iterator[None]:
        """A span in the worker's thread, and one for the work it starts on the device."""
        start = self._mark()
        with self.timeline.span(self.name, name):
            yield
        self._marks.append((name, start, self._mark()))

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def _add(self, name: str, start: torch.cuda.Event, end: torch.cuda.Event) -> None:
        first, last = (self._zero_time + self._zero.elapsed_time(event) / 1000 for event in (start, end))
        self.timeline.add(f"{self.name} on {self.device}", name, first, last)


CPU = Backend()


def open_backend(device: torch.device, name: str, timeline: NoTimeline) -> Backend:
    """Open the backend of one worker."""
    return CudaBackend(device, name, timeline) if device.type == "cuda" else Backend(name, timeline)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a host tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
