"""A worker's part of a CUDA device: a range goes there, is merged, rounded, checked and encoded in one kernel, and
comes back encoded."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dtypes import BY_TYPE, TYPE_OF, Array, Floats
from quantkit.engine.backend import Backend, Encoded, Target, first_invalid
from quantkit.engine.rows import Rows
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.files.output_file import Bytes
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import cuda
from quantkit.kernels.cuda_driver import Lane, open_device
from quantkit.kernels.cuda_source import Variant
from quantkit.kernels.formats import PLAIN, SPLIT_FORMATS, UNWEIGHTED, WEIGHTED, WITH_GRID
from quantkit.kernels.grids import device_table
from quantkit.kernels.rounding import LARGEST, SMALLEST, weighable

_ALIGNMENT = 256
# Where the job, that of a first step which only merges, and the first flags are in the memory of the job.
_JOB, _MERGE, _FLAGS, _ARRAYS = 0, 384, 768, 1024


class CudaBackend(Backend):
    """One worker on a device.

    What a kernel cannot do (vectors, types without a kernel, values outside of what C's arithmetic decides) the
    processor does, to the same bytes.
    """

    def __init__(self, index: int, name: str = "worker", timeline: NoTimeline = NO_TIMELINE) -> None:
        super().__init__(name, timeline)
        self._device = open_device(index)

    @contextmanager
    def active(self) -> Iterator[None]:
        self._lane = Lane(self._device)
        self._grids: dict[GGMLType, int] = {}
        try:
            yield
        finally:
            self._lane.close()

    def memory(self, nbytes: int) -> npt.NDArray[np.uint8]:
        return self._lane.pinned("stored", nbytes)[:nbytes]

    def encode(self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target]) -> Encoded:
        there = {_key(target): target for target in targets if _has_kernel(target, outtype, columns)}
        chosen = list(there.values())[: cuda.FORMATS_PER_KERNEL]
        if not chosen or rows.stored.dtype not in TYPE_OF or len(rows.pairs) > cuda.PAIRS:
            return super().encode(rows, outtype, columns, targets)
        keys = [_key(target) for target in chosen]
        rest = [target for target in targets if _key(target) not in keys]
        on_host = [target for target in rest if target.type is not outtype]
        with self.span("on the device"):
            largest, rounded, pieces = self._run(rows, outtype, columns, chosen, keeps_rounded=bool(rest))
        if largest is None:
            return super().encode(rows, outtype, columns, targets)
        encoded: dict[tuple[GGMLType, int], Bytes] = dict(zip(keys, pieces, strict=True))
        encoded |= {_key(target): rounded.view(np.uint8).data for target in rest if target.type is outtype}
        if on_host:
            others = super().encode(Rows(rounded.reshape(-1, columns)), outtype, columns, on_host)
            encoded |= zip(map(_key, on_host), others.data, strict=True)
        data = [encoded[_key(target)] for target in targets]
        return Encoded(data, largest, first_invalid(targets, data, outtype, largest))

    def _run(
        self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target], *, keeps_rounded: bool
    ) -> tuple[float | None, Array, list[memoryview]]:
        """The largest magnitude (None if the processor must look at the values), the rounded rows, the encoded ones."""
        lane, count = self._lane, rows.stored.size
        weighted = tuple(number for number, target in enumerate(targets) if _importance(target) is not None)
        kinds = tuple(target.type for target in targets)
        variant = Variant(TYPE_OF[rows.stored.dtype], outtype, kinds, weighted)
        merges_first = variant.needs_squares and bool(rows.pairs)
        stored = np.ascontiguousarray(rows.stored).reshape(-1).view(np.uint8)
        pinned = self.memory(stored.nbytes)
        if stored.ctypes.data != pinned.ctypes.data:
            np.copyto(pinned, stored)
        rounded_nbytes = count * BY_TYPE[outtype].itemsize if keeps_rounded or merges_first else 0
        sizes = [_ALIGNMENT, rounded_nbytes, *(kind.row_nbytes(count) for kind in kinds)]
        starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
        out = lane.pinned("out", starts[-1])
        if variant.needs_squares:
            lane.pinned("squares", count // columns * 4)
        job = self._write_job(rows, columns, targets, starts, rounded_nbytes > 0, variant.needs_squares, merges_first)
        lane.copy_in("stored", stored.nbytes)
        if merges_first:
            self._launch(Variant(variant.stored, outtype, ()), "carry", job + _MERGE, count)
            variant = replace(variant, stored=outtype)
        if variant.needs_squares:
            self._launch(variant, "squares", job, count // columns)
        self._launch(variant, "carry", job, count)
        lane.copy_out("out", starts[-2] + sizes[-1])
        lane.wait()
        flags = out[:8].view(np.uint32)
        largest, smallest = flags.view(np.float32).tolist()
        pieces = [out[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        decided = largest <= LARGEST and (flags[1] == 0xFFFFFFFF or smallest >= SMALLEST)
        encoded = [piece.data for piece in pieces[2:]]
        return (largest if decided else None), pieces[1].view(BY_TYPE[outtype]), encoded

    def _launch(self, variant: Variant, name: str, job: int, count: int) -> None:
        """Begin a kernel: ``carry`` of *count* weights, or ``squares`` of *count* rows."""
        each, threads = (cuda.TILE, cuda.THREADS) if name == "carry" else (cuda.ROWS, cuda.ROWS)
        function = cuda.kernel(self._device, variant, name)
        self._lane.launch(function, -(-count // each), threads, (job,), (ctypes.c_void_p,))

    def _write_job(
        self,
        rows: Rows,
        columns: int,
        targets: Sequence[Target],
        starts: list[int],
        keeps_rounded: bool,
        needs_squares: bool,
        merges_first: bool,
    ) -> int:
        """Bring the job, the factors and the importances to the device, and set the flags there; the job's address."""
        lane, importances = self._lane, {n: v for n, t in enumerate(targets) if (v := _importance(t)) is not None}
        factors = [factor for pair in rows.pairs for factor in pair]
        arrays = [np.ascontiguousarray(array).reshape(-1) for array in (*factors, *importances.values())]
        places = np.cumsum([_ARRAYS, *(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays)]).tolist()
        memory = lane.pinned("job", places[-1])
        there, out = lane.address("job"), lane.address("out")
        for place, array in zip(places, arrays, strict=False):
            np.copyto(memory[place : place + array.nbytes].view(np.float32), array)
        job = memory[_JOB : _JOB + cuda.JOB.itemsize].view(cuda.JOB)
        job[0] = 0
        job["stored"], job["count"], job["columns"] = lane.address("stored"), rows.stored.size, columns
        job["pairs"] = len(rows.pairs)
        for number, (left, _) in enumerate(rows.pairs):
            job["pair"]["left"][0, number] = there + places[2 * number]
            job["pair"]["right"][0, number] = there + places[2 * number + 1]
            job["pair"]["rank"][0, number] = left.shape[1]
        job["flags"], job["rounded"] = out, out + starts[1] if keeps_rounded else 0
        job["out"][0, : len(targets)] = [out + start for start in starts[2:-1]]
        for number, place in zip(importances, places[len(factors) :], strict=False):
            job["importance"][0, number] = there + place
        for number, target in enumerate(targets):
            if target.type in WITH_GRID:
                job["grid"][0, number] = self._grid(target.type)
        if needs_squares:
            job["squares"] = lane.address("squares")
        if merges_first:
            memory[_MERGE : _MERGE + cuda.JOB.itemsize].view(cuda.JOB)[0] = job[0]
            job["stored"], job["pairs"], job["rounded"] = out + starts[1], 0, 0
        memory[_FLAGS : _FLAGS + 8].view(np.uint32)[:] = 0, 0xFFFFFFFF
        lane.copy_in("job", places[-1])
        lane.copy_within("job", _FLAGS, "out", 0, 8)
        return there + _JOB

    def _grid(self, kind: GGMLType) -> int:
        """The address of a grid's table on the device, to which it is brought once."""
        if kind not in self._grids:
            table, name = device_table(kind).view(np.uint8), f"grid of {kind.name}"
            np.copyto(self._lane.pinned(name, table.nbytes)[: table.nbytes], table)
            self._lane.copy_in(name, table.nbytes)
            self._grids[kind] = self._lane.address(name)
        return self._grids[kind]


def _importance(target: Target) -> Floats | None:
    """The importances that the bytes of a target depend on."""
    return None if target.type in UNWEIGHTED else target.importance


def _key(target: Target) -> tuple[GGMLType, int]:
    """The same for targets whose bytes are."""
    return target.type, id(_importance(target))


def _has_kernel(target: Target, outtype: GGMLType, columns: int) -> bool:
    kind, importance = target.type, _importance(target)
    if kind is outtype or columns % kind.block:
        return False
    if kind in SPLIT_FORMATS and not ggml.sorts_stably():
        return False
    return kind in PLAIN if importance is None else kind in WEIGHTED and weighable(importance)
