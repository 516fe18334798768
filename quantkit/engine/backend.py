"""Where a worker computes: on the processor, or on a CUDA device.

The engine asks a backend for memory to read into and for the encoded bytes of what was read; everything between (merge,
round, check, encode) is one step of the backend's own, and its bytes are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dtypes import Array, Floats, to_float32
from quantkit.engine.rows import Rows
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.files.output_file import Bytes
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels.encode import encode
from quantkit.kernels.rounding import OVERFLOW, largest_magnitude, round_to

# Weights that are merged, rounded and encoded at a time: they and what they become stay in the cache.
_STRIP_WEIGHTS = 1 << 18


@dataclass(frozen=True)
class Target:
    """What an output wants of some rows.

    Attributes:
        type: the type to encode them in.
        importance: float32, shape [columns], for encoders that use one; None without.
    """

    type: GGMLType
    importance: Floats | None = None


@dataclass(frozen=True)
class Encoded:
    """Encoded rows.

    Attributes:
        data: the bytes for each target, valid until the backend is asked again; empty if nothing could be encoded.
        largest: the largest magnitude after merging; NaN if a value is NaN.
        too_large_for: the first type that cannot hold it.
    """

    data: list[Bytes]
    largest: float
    too_large_for: GGMLType | None = None


class Backend:
    """The processor.

    Attributes:
        name: on the timeline.
        timeline: told what is done.
    """

    def __init__(self, name: str = "worker", timeline: NoTimeline = NO_TIMELINE) -> None:
        self.name, self.timeline = name, timeline
        self._memory = np.empty(0, dtype=np.uint8)

    @contextmanager
    def active(self) -> Iterator[None]:
        """While a worker works here, in its thread."""
        yield

    def memory(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Memory to read into, uint8; valid until the next call."""
        if self._memory.size < nbytes:
            self._memory = np.empty(nbytes, dtype=np.uint8)
        return self._memory[:nbytes]

    def encode(self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target]) -> Encoded:
        """Merge, round, check and encode rows.

        Args:
            rows: what was read, and what is to be added.
            outtype: the type they are rounded to before they are encoded; its own type for a tensor that is quantized
                already.
            columns: weights in a row.
            targets: what is wanted; a target of the outtype gets the rounded rows themselves.
        """
        count = rows.stored.shape[0]
        step = max(1, _STRIP_WEIGHTS // columns)
        outs = [np.empty((count, target.type.row_nbytes(columns)), dtype=np.uint8) for target in targets]
        largest, too_large = 0.0, None
        for start in range(0, count, step):
            strip = slice(start, min(start + step, count))
            with self.span("merge and round"):
                rounded, floats, highest = self._round(rows.part(strip), outtype, columns)
            largest = highest if not highest <= largest else largest
            if rounded is None:
                return Encoded([], largest)
            with self.span("encode"):
                for target, out in zip(targets, outs, strict=True):
                    data = self._bytes(target, outtype, rounded, floats)
                    if target.type is not outtype and too_large is None and not ggml.is_valid(target.type, data.data):
                        too_large = target.type
                    out[strip] = data.reshape(out[strip].shape)
        return Encoded([out.reshape(-1).data for out in outs], largest, too_large)

    def _round(self, rows: Rows, outtype: GGMLType, columns: int) -> tuple[Array | None, Floats, float]:
        """The rounded rows (None if a value is out of range), the same as float32, and the largest magnitude."""
        if outtype not in OVERFLOW:
            floats = ggml.dequantize_rows(outtype, rows.stored.tobytes(), columns)
            return rows.stored, floats, largest_magnitude(floats)
        merged = rows.merged()
        largest = largest_magnitude(merged)
        if not largest < OVERFLOW[outtype]:
            return None, merged, largest
        rounded = round_to(merged, outtype)
        return rounded, to_float32(rounded), largest

    def _bytes(self, target: Target, outtype: GGMLType, rounded: Array, floats: Floats) -> npt.NDArray[np.uint8]:
        if target.type is outtype:
            return np.ascontiguousarray(rounded).reshape(-1).view(np.uint8)
        return np.frombuffer(encode(target.type, floats, target.importance), dtype=np.uint8)

    def span(self, name: str) -> AbstractContextManager[None]:
        """A step for the timeline."""
        return self.timeline.span(self.name, name)
