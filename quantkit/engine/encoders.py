"""Encoders loaded before a stream begins, and held to libggml on the machine and the weights at hand.

A few rows of one tensor of every kind go the way that all will go, and nothing is written. Whatever that compiles, for
the processor or a CUDA device, is kept in the user's cache folder, so its time is not the stream's. The first of these
rows must be what numpy and libggml make of them: a driver, a compiler or a cache that is broken would else make a model
that is wrong in silence. That is compared while the stream runs, and before anything is published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from quantkit.checkpoint.dtypes import Array, Floats, to_float32
from quantkit.engine.backend import Target
from quantkit.engine.device import Device, Workers
from quantkit.engine.ranges import RowRange
from quantkit.engine.rows import Rows
from quantkit.engine.stream import RowSource, open_backend, places, target
from quantkit.engine.timeline import NO_TIMELINE
from quantkit.errors import QuantkitError
from quantkit.files.output_file import Bytes
from quantkit.ggml import library as ggml
from quantkit.kernels import lanes
from quantkit.kernels.cache import cache_folder
from quantkit.kernels.encode import WORTH_NUMBA
from quantkit.kernels.formats import FORMATS
from quantkit.kernels.rounding import OVERFLOW, round_to
from quantkit.plan.values import Output, PlannedTensor, count_elements

# Weights that are compared, or a row: a few milliseconds of libggml's time in most types.
_COMPARED = 1 << 15


def kinds(tensors: Sequence[PlannedTensor], outputs: Sequence[Output]) -> list[PlannedTensor]:
    """The largest matrix of every kind: of those that are rounded and encoded in the same types."""
    found: dict[object, PlannedTensor] = {}
    for tensor in sorted(tensors, key=lambda tensor: count_elements(tensor.shape), reverse=True):
        if len(tensor.shape) > 1:
            types = tuple((slot.type, tensor.name in output.importance) for output, slot in places(outputs, tensor))
            found.setdefault((tensor.outtype, types), tensor)
    return list(found.values())


def load_encoders(
    chosen: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: RowSource,
    workers: Workers,
    progress: Callable[[int], None] = lambda count: None,
) -> Callable[[], None]:
    """Load the encoders that some tensors need, on every device.

    Args:
        chosen: one tensor of every kind, see :func:`kinds`.
        outputs, source, workers: as in :func:`quantkit.engine.stream.stream`.
        progress: called with 1 after each tensor on each device.

    Returns:
        What compares the first rows, and raises QuantkitError if they are not encoded as libggml encodes them.

    Raises:
        QuantkitError: the rows cannot be read. What is wrong with their values the stream finds out.
    """
    comparisons: list[Callable[[], None]] = []
    for device in workers.devices:
        backend = open_backend(device, str(device), NO_TIMELINE)
        with np.errstate(all="ignore"), backend.active():
            for tensor in chosen:
                few = RowRange(tensor, 0, 0, _few_rows(tensor))
                rows = source.rows(tensor, few.start, few.stop, backend.memory)
                wanted = [target(output, slot, few) for output, slot in places(outputs, tensor)]
                encoded = backend.encode(rows, tensor.outtype, tensor.columns, wanted)
                # With values that are too large libggml may end the process; the stream refuses them.
                if encoded.data and encoded.too_large_for is None and tensor.outtype in OVERFLOW:
                    comparisons.append(_comparison(tensor, device, rows, wanted, encoded.data))
                progress(1)

    def compare() -> None:
        with np.errstate(all="ignore"):
            for comparison in comparisons:
                comparison()

    return compare


def _comparison(
    tensor: PlannedTensor, device: Device, rows: Rows, wanted: Sequence[Target], encoded: Sequence[Bytes]
) -> Callable[[], None]:
    """What compares the first rows with what numpy and libggml make of them, of copies that no backend overwrites."""
    count = max(1, _COMPARED // tensor.columns)
    bits = round_to(rows.part(slice(count)).merged(), tensor.outtype)
    pieces = [bytes(memoryview(data).cast("B")[: 4 * bits.size]) for data in encoded]  # no type has longer rows
    return lambda: _hold_to_libggml(tensor, device, bits, wanted, pieces)


def _hold_to_libggml(
    tensor: PlannedTensor, device: Device, bits: Array, wanted: Sequence[Target], encoded: Sequence[bytes]
) -> None:
    """Compare rows, rounded to the outtype, with what is encoded.

    Raises:
        QuantkitError: a byte differs.
    """
    for one, data in zip(wanted, encoded, strict=True):
        expected = bits if one.type is tensor.outtype else _expected(one, to_float32(bits), device)
        if expected is None:
            continue
        if data[: expected.nbytes] != expected.view(np.uint8).reshape(-1).tobytes():
            here = f"{device} makes other bytes of tensor {tensor.name!r} in {one.type.label} than libggml does"
            hint = "pass --device cpu, and report this" if device.kind == "cuda" else f"remove {cache_folder('numba')}"
            raise QuantkitError(here, hint=hint)


def _few_rows(tensor: PlannedTensor) -> int:
    """As many rows as compiled encoders are used for, or all."""
    units = -(-WORTH_NUMBA // (tensor.columns * tensor.unit))
    return min(tensor.segment, units * tensor.unit)


def _expected(target: Target, rows: Floats, device: Device) -> Array | None:
    """What libggml makes of rows; where it prepares for seconds, what the processor's encoder does, which tests hold to
    libggml. None on the processor itself."""
    form = FORMATS.get(target.type)
    if form is None or not form.prepares_long:
        return ggml.quantize_rows(target.type, rows, target.importance)
    return lanes.encode(target.type, rows, target.importance) if device.kind != "cpu" and lanes.available() else None
