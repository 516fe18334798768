"""A worker's part of a CUDA device: a range goes there, is merged, rounded, checked and encoded in one kernel, and
comes back encoded."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dtypes import BY_TYPE, Array
from quantkit.engine.backend import Backend, Encoded, Target, may_be_invalid
from quantkit.engine.rows import Rows
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.files.output_file import Bytes
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import cuda
from quantkit.kernels.cuda_driver import Lane, open_device
from quantkit.kernels.cuda_source import Variant
from quantkit.kernels.formats import FORMATS
from quantkit.kernels.rounding import LARGEST, SMALLEST

_TYPES = {dtype: kind for kind, dtype in BY_TYPE.items()}
_ALIGNMENT = 256


class CudaBackend(Backend):
    """One worker on a device.

    What a kernel cannot do (vectors, types without a kernel, importance matrices, values outside of what C's arithmetic
    decides) the processor does, to the same bytes.
    """

    def __init__(self, index: int, name: str = "worker", timeline: NoTimeline = NO_TIMELINE) -> None:
        super().__init__(name, timeline)
        self._device = open_device(index)

    @contextmanager
    def active(self) -> Iterator[None]:
        self._lane = Lane(self._device)
        try:
            yield
        finally:
            self._lane.close()

    def memory(self, nbytes: int) -> npt.NDArray[np.uint8]:
        return self._lane.pinned("stored", nbytes)[:nbytes]

    def encode(self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target]) -> Encoded:
        wanted = dict.fromkeys(target.type for target in targets if _has_kernel(target, outtype, columns))
        kinds = tuple(wanted)[: cuda.FORMATS_PER_KERNEL]
        if not kinds or rows.stored.dtype not in _TYPES or len(rows.pairs) > cuda.PAIRS:
            return super().encode(rows, outtype, columns, targets)
        variant = Variant(_TYPES[rows.stored.dtype], outtype, kinds)
        done = [target.type in kinds and target.importance is None for target in targets]
        with self.span("on the device"):
            largest, rounded, encoded = self._run(variant, rows, columns, keeps_rounded=not all(done))
        if largest is None:
            return super().encode(rows, outtype, columns, targets)
        data: list[Bytes] = [
            encoded[target.type] if on_device else self._on_host(target, outtype, columns, rounded)
            for target, on_device in zip(targets, done, strict=True)
        ]
        too_large = next(
            (
                t.type
                for t, d in zip(targets, data, strict=True)
                if may_be_invalid(t, outtype) and not ggml.is_valid(t.type, d)
            ),
            None,
        )
        return Encoded(data, largest, too_large)

    def _run(
        self, variant: Variant, rows: Rows, columns: int, *, keeps_rounded: bool
    ) -> tuple[float | None, Array, dict[GGMLType, memoryview]]:
        """The largest magnitude (None if the processor must look at the values), the rounded rows, the encoded ones."""
        lane, count = self._lane, rows.stored.size
        stored = np.ascontiguousarray(rows.stored).reshape(-1).view(np.uint8)
        pinned = self.memory(stored.nbytes)
        if stored.ctypes.data != pinned.ctypes.data:
            np.copyto(pinned, stored)
        rounded_nbytes = count * BY_TYPE[variant.outtype].itemsize if keeps_rounded else 0
        sizes = [_ALIGNMENT, rounded_nbytes, *(kind.row_nbytes(count) for kind in variant.kinds)]
        starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
        out = lane.pinned("out", starts[-1])
        self._write_job(rows, count, columns, starts, keeps_rounded=keeps_rounded)
        lane.copy_in("stored", stored.nbytes)
        function = cuda.kernel(self._device, variant)
        lane.launch(function, -(-count // cuda.TILE), cuda.THREADS, (lane.address("job"),), (ctypes.c_void_p,))
        lane.copy_out("out", starts[-2] + sizes[-1])
        lane.wait()
        flags = out[:8].view(np.uint32)
        largest, smallest = flags.view(np.float32).tolist()
        pieces = [out[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        decided = largest <= LARGEST and (flags[1] == 0xFFFFFFFF or smallest >= SMALLEST)
        encoded = {kind: piece.data for kind, piece in zip(variant.kinds, pieces[2:], strict=True)}
        return (largest if decided else None), pieces[1].view(BY_TYPE[variant.outtype]), encoded

    def _write_job(self, rows: Rows, count: int, columns: int, starts: list[int], *, keeps_rounded: bool) -> None:
        """Bring the job and the factors to the device, and set the flags there."""
        lane = self._lane
        factors = [np.ascontiguousarray(factor).reshape(-1) for pair in rows.pairs for factor in pair]
        places = np.cumsum([1024, *(-(-factor.nbytes // _ALIGNMENT) * _ALIGNMENT for factor in factors)]).tolist()
        memory = lane.pinned("job", places[-1])
        there, out = lane.address("job"), lane.address("out")
        job = memory[: cuda.JOB.itemsize].view(cuda.JOB)
        job[0] = 0
        job["stored"], job["count"], job["columns"], job["pairs"] = (
            lane.address("stored"),
            count,
            columns,
            len(rows.pairs),
        )
        for number, (left, _) in enumerate(rows.pairs):
            job["pair"]["left"][0, number] = there + places[2 * number]
            job["pair"]["right"][0, number] = there + places[2 * number + 1]
            job["pair"]["rank"][0, number] = left.shape[1]
        for place, factor in zip(places, factors, strict=False):
            np.copyto(memory[place : place + factor.nbytes].view(np.float32), factor)
        memory[512:520].view(np.uint32)[:] = 0, 0xFFFFFFFF
        job["flags"], job["rounded"] = out, out + starts[1] if keeps_rounded else 0
        job["out"][0, : len(starts) - 3] = [out + start for start in starts[2:-1]]
        lane.copy_in("job", places[-1])
        lane.copy_within("job", 512, "out", 0, 8)

    def _on_host(self, target: Target, outtype: GGMLType, columns: int, rounded: Array) -> Bytes:
        if target.type is outtype:
            return rounded.view(np.uint8).data
        return super().encode(Rows(rounded.reshape(-1, columns)), outtype, columns, [target]).data[0]


def _has_kernel(target: Target, outtype: GGMLType, columns: int) -> bool:
    kind = target.type
    return kind in FORMATS and kind is not outtype and target.importance is None and columns % kind.block == 0
