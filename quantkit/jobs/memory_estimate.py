"""How much memory a build will need at its peak, from the plan: it depends on the ranges, not on the model's size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quantkit.engine.device import Workers
from quantkit.engine.ranges import row_ranges
from quantkit.jobs.prepare import PlannedBuild
from quantkit.model.merger import Merger
from quantkit.plan.values import Output, PlannedTensor, count_elements

# Measured with scripts/bench: the interpreter with numba and a vocabulary of 128k tokens; CUDA's libraries on top of
# that; a device's context with its kernels.
_HOST_NBYTES, _HOST_NBYTES_OF_CUDA, _DEVICE_NBYTES = 350_000_000, 200_000_000, 550_000_000
# A worker's strip of a million weights: float32 sums, what they are rounded to, and what searches work in.
_STRIP_NBYTES = 20_000_000
# A worker's factors of adapters, pinned and on the device.
_FACTORS_NBYTES = 2_000_000


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory.

    Attributes:
        workers: how many.
        host: bytes of the process.
        device: bytes on each CUDA device; 0 without.
    """

    workers: int
    host: int
    device: int


def estimate_memory(prepared: PlannedBuild) -> MemoryEstimate:
    """What a prepared build will need."""
    plan, workers = prepared.plan, prepared.workers
    stored = _stored_nbytes(prepared)
    ranges = max(_range_nbytes(tensor, plan.outputs, workers, stored) for tensor in plan.tensors)
    each = ranges + _STRIP_NBYTES
    if not workers.cuda:
        return MemoryEstimate(workers.threads, _HOST_NBYTES + workers.threads * each, 0)
    there = ranges + _FACTORS_NBYTES  # pinned buffers have twins on the device
    most = -(-workers.threads // len(workers.devices))
    host = _HOST_NBYTES + _HOST_NBYTES_OF_CUDA + workers.threads * there
    return MemoryEstimate(workers.threads, host, _DEVICE_NBYTES + most * there)


def _range_nbytes(tensor: PlannedTensor, outputs: Iterable[Output], workers: Workers, stored: int) -> int:
    """Bytes of a range of the tensor as it is read, and as it is encoded for all outputs."""
    first = next(row_ranges(tensor, workers.chunk))
    slots = [slot for output in outputs if (slot := output.tensors.get(tensor.name))]
    encoded = sum(slot.nbytes * (first.stop - first.start) // tensor.rows for slot in slots)
    return (first.stop - first.start) * tensor.columns * stored + encoded


def _stored_nbytes(prepared: PlannedBuild) -> int:
    """Bytes of a weight as it is read, at most."""
    if not isinstance(prepared.subject.source, Merger):
        return 4
    specs = prepared.subject.source.checkpoint.tensors.values()
    return max(-(-spec.nbytes // count_elements(spec.shape)) for spec in specs if spec.nbytes)
