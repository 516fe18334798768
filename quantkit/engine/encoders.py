"""Encoders loaded before a stream begins: what is compiled when it is first used is not the stream's time.

A few rows of one tensor of every kind go the way that all will go, and nothing is written. Whatever that compiles, for
the processor or a CUDA device, is kept in the user's cache folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from quantkit.engine.device import Workers
from quantkit.engine.ranges import RowRange
from quantkit.engine.stream import RowSource, open_backend, places, target
from quantkit.engine.timeline import NO_TIMELINE
from quantkit.kernels.encode import WORTH_NUMBA
from quantkit.plan.values import Output, PlannedTensor, count_elements


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
) -> None:
    """Load the encoders that some tensors need, on every device.

    Args:
        chosen: one tensor of every kind, see :func:`kinds`.
        outputs, source, workers: as in :func:`quantkit.engine.stream.stream`.
        progress: called with 1 after each tensor on each device.

    Raises:
        QuantkitError: the rows cannot be read. What is wrong with their values the stream finds out.
    """
    for device in workers.devices:
        backend = open_backend(device, str(device), NO_TIMELINE)
        with np.errstate(all="ignore"), backend.active():
            for tensor in chosen:
                few = RowRange(tensor, 0, 0, _few_rows(tensor))
                rows = source.rows(tensor, few.start, few.stop, backend.memory)
                wanted = [target(output, slot, few) for output, slot in places(outputs, tensor)]
                backend.encode(rows, tensor.outtype, tensor.columns, wanted)
                progress(1)


def _few_rows(tensor: PlannedTensor) -> int:
    """As many rows as compiled encoders are used for, or all."""
    units = -(-WORTH_NUMBA // (tensor.columns * tensor.unit))
    return min(tensor.segment, units * tensor.unit)
