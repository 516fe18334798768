"""How much memory a build will need at its peak, from the plan: it depends on the ranges, not on the model's size."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.engine.device import Workers
from quantkit.engine.ranges import CHUNK_WEIGHTS, row_ranges
from quantkit.ggml.types import UNQUANTIZED
from quantkit.jobs.prepare import PlannedBuild
from quantkit.kernels.formats import FORMATS, UNWEIGHTED, WEIGHTED
from quantkit.model.merger import Merger
from quantkit.plan.values import Output, PlannedTensor, count_elements

# Measured with scripts/bench: the interpreter with torch, numba and a vocabulary of 128k tokens; the same with a CUDA
# build of torch, unused and used; a device's context with kernels; a worker's share of cuBLAS.
_HOST_NBYTES = 600_000_000
_HOST_NBYTES_OF_CUDA_TORCH = 950_000_000
_HOST_NBYTES_WITH_CUDA = 1_100_000_000
_DEVICE_NBYTES = 600_000_000
_DEVICE_NBYTES_A_WORKER = 33_000_000
# Bytes that a weight of a range takes at most while it is read (its stored type), summed up (float32, twice while it is
# arranged), rounded, and encoded.
_NBYTES_A_WEIGHT = 4 + 4 + 4
_ENCODED_NBYTES_A_WEIGHT = 2
# What encoders on the processor need besides.
_SCRATCH_NBYTES_A_WEIGHT = 12


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
    widest = max(_largest_range(tensor, workers) for tensor in plan.tensors)
    base = 4 if UNQUANTIZED[prepared.recipe.outtype].label == "f32" else 2
    if not workers.cuda:
        each = widest * (_NBYTES_A_WEIGHT + base + 4 + _ENCODED_NBYTES_A_WEIGHT + _SCRATCH_NBYTES_A_WEIGHT)
        return MemoryEstimate(workers.threads, _HOST_NBYTES + workers.threads * each, 0)
    on_host = any(_on_host(output, tensor) for output in plan.outputs for tensor in plan.tensors)
    pinned = widest * max(base, _stored_nbytes(prepared))
    encoding = widest * (4 + _ENCODED_NBYTES_A_WEIGHT) + CHUNK_WEIGHTS * 8 if on_host else 0
    most = -(-workers.threads // len(workers.devices))
    device = most * (widest * (_NBYTES_A_WEIGHT + base + _ENCODED_NBYTES_A_WEIGHT) + _DEVICE_NBYTES_A_WORKER)
    host = _HOST_NBYTES_WITH_CUDA + workers.threads * (pinned + encoding)
    return MemoryEstimate(workers.threads, host, _DEVICE_NBYTES + device)


def _stored_nbytes(prepared: PlannedBuild) -> int:
    """Bytes of a weight as it is read, at most."""
    if not isinstance(prepared.subject.source, Merger):
        return 4
    specs = prepared.subject.source.checkpoint.tensors.values()
    return max(-(-spec.nbytes // count_elements(spec.shape)) for spec in specs if spec.nbytes)


def _largest_range(tensor: PlannedTensor, workers: Workers) -> int:
    first = next(row_ranges(tensor, workers.chunk))
    return (first.stop - first.start) * tensor.columns


def _on_host(output: Output, tensor: PlannedTensor) -> bool:
    """Whether a tensor is encoded on the host although the workers have devices."""
    slot = output.tensors.get(tensor.name)
    if slot is None or slot.type is tensor.outtype:
        return False
    if slot.type not in FORMATS:
        return True
    weighted = tensor.name in output.importance and slot.type not in UNWEIGHTED
    return weighted and slot.type not in WEIGHTED
