"""Where a worker computes: on the processor, or on a CUDA device.

The engine asks a backend for memory to read into and for the encoded bytes of what was read; everything between (merge,
round, check, encode) is one step of the backend's own, and its bytes are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dtypes import Array, Floats
from quantkit.engine.rows import Rows
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.files.output_file import Bytes
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels.encode import encode, too_large
from quantkit.kernels.formats import UNWEIGHTED
from quantkit.kernels.kept import Kept
from quantkit.kernels.one_call import encode_in_one_call, has_one_call
from quantkit.kernels.round_rows import Rounded, round_rows
from quantkit.kernels.rounding import OVERFLOW, largest_magnitude

# Weights, or a few more, that are merged, rounded and encoded at a time where that is not one call. Fewer would stay in
# the cache, but each strip takes the interpreter's lock some ten times, for which the workers of many cores wait.
_STRIP_WEIGHTS = 1 << 20


@dataclass(frozen=True, eq=False)
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
        largest: the largest magnitude after merging; NaN if a value is NaN. Of a tensor that comes quantized and stays
            as it is, 0.
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
        self._kept = Kept()

    @contextmanager
    def active(self) -> Iterator[None]:
        """While a worker works here, in its thread."""
        yield

    def memory(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Memory to read into, uint8; valid until the next call."""
        return self._kept.array("stored", (nbytes,), np.dtype(np.uint8))

    def encode(self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target]) -> Encoded:
        """Merge, round, check and encode rows.

        Args:
            rows: what was read, and what is to be added.
            outtype: the type they are rounded to before they are encoded; its own type for a tensor that is quantized
                already.
            columns: weights in a row.
            targets: what is wanted; a target of the outtype gets the rounded rows themselves.
        """
        kinds, shape = [target.type for target in targets], rows.stored.shape
        outs = [
            self._kept.array(f"out {number}", (shape[0], kind.row_nbytes(columns)), np.dtype(np.uint8))
            for number, kind in enumerate(kinds)
        ]
        largest = None
        unweighted = all(target.importance is None or target.type in UNWEIGHTED for target in targets)
        if unweighted and has_one_call(rows.stored, outtype, kinds):
            with self.span("merge, round and encode"):
                largest = encode_in_one_call(rows.stored, rows.pairs, outtype, kinds, outs, self._kept)
        if largest is None:
            return self._in_strips(rows, outtype, columns, targets, outs)
        if not largest < OVERFLOW[outtype]:
            return Encoded([], largest)
        return _checked(targets, outs, outtype, largest)

    def _in_strips(
        self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target], outs: Sequence[Array]
    ) -> Encoded:
        """Every step of a strip is a call of its own."""
        count = rows.stored.shape[0]
        step = -(-_STRIP_WEIGHTS // columns)
        magnitudes = [0.0]
        for start in range(0, count, step):
            strip = slice(start, min(start + step, count))
            with self.span("merge and round"):
                rounded = self._round(rows.part(strip), outtype, columns, targets)
            magnitudes.append(rounded.largest)
            if rounded.bits is None:
                return Encoded([], largest_magnitude(rows.merged()))
            with self.span("encode"):
                for target, out in zip(targets, outs, strict=True):
                    if target.type is not outtype and too_large(target.type, rounded.largest, target.importance):
                        continue  # the type is refused below
                    out[strip] = _bytes(target, outtype, rounded).reshape(out[strip].shape)
        return _checked(targets, outs, outtype, float(np.max(magnitudes)))

    def span(self, name: str) -> AbstractContextManager[None]:
        """A step for the timeline."""
        return self.timeline.span(self.name, name)

    def _round(self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target]) -> Rounded:
        """Merge and round; rows that are quantized already are decoded, if a target needs it: not every type can be."""
        if outtype in OVERFLOW:
            return round_rows(rows.stored, rows.pairs, outtype, self._kept)
        if all(target.type is outtype for target in targets):
            return Rounded(0.0, rows.stored, np.empty((0, columns), dtype=np.float32))
        floats = ggml.dequantize_rows(outtype, rows.stored.tobytes(), columns)
        return Rounded(largest_magnitude(floats), rows.stored, floats)


def first_invalid(
    targets: Iterable[Target], encoded: Iterable[Bytes], outtype: GGMLType, largest: float
) -> GGMLType | None:
    """The first type that values are too large for, or with a block whose scale is not finite.

    Finite float16 values never give such a block.
    """
    for target, data in zip(targets, encoded, strict=True):
        if target.type is not outtype and too_large(target.type, largest, target.importance):
            return target.type
        may_be = target.type is not outtype and (outtype is not GGMLType.F16 or target.importance is not None)
        if may_be and not ggml.is_valid(target.type, data):
            return target.type
    return None


def _checked(targets: Sequence[Target], outs: Sequence[Array], outtype: GGMLType, largest: float) -> Encoded:
    data: list[Bytes] = [out.reshape(-1).data for out in outs]
    return Encoded(data, largest, first_invalid(targets, data, outtype, largest))


def _bytes(target: Target, outtype: GGMLType, rounded: Rounded) -> npt.NDArray[np.uint8]:
    if target.type is outtype:
        return np.ascontiguousarray(rounded.bits).reshape(-1).view(np.uint8)
    return np.frombuffer(encode(target.type, rounded.floats, target.importance), dtype=np.uint8)
