"""A range in one call, compiled by numba: strips of rows go through ``lane_rows`` and the encoders in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.kernels import lane_blocks, lane_rows, lane_small
from quantkit.kernels.lane_common import Bytes, Floats, compiled, count_outside, inlined
from quantkit.kernels.rounding import LARGEST, SMALLEST

# Weights of a strip, or a few more: as float32 they and the factors fill half of a second-level cache.
_STRIP = 1 << 16

_ENCODERS = lane_blocks.ENCODERS | lane_small.ENCODERS
# (stored bits [n, columns], left, right, memory for a strip of floats, bits, the outputs) -> see carry
Range = Callable[[npt.NDArray[Any], Floats, Floats, Floats, npt.NDArray[Any], tuple[Bytes, ...]], tuple[np.int32, int]]


def strip_rows(columns: int) -> int:
    """Rows in a strip."""
    return -(-_STRIP // columns)


@cache
def carry(stored: GGMLType, outtype: GGMLType, formats: tuple[GGMLType, ...], keeps: bool) -> Range:
    """The compiled pass for one type of stored rows, one outtype, and the formats it encodes.

    Its arguments are those of :func:`quantkit.kernels.lane_rows.carry`, and the outputs, uint8 [blocks, bytes of a
    block]. The memory for floats holds a strip. If it *keeps* the rounded rows, bits are those of the whole range, else
    the memory of a strip. It returns the bits of the largest magnitude before rounding, and how many values arithmetic
    alone does not decide.
    """
    merge, encode, least = lane_rows.carry(stored, outtype), _all_of(formats), np.float32(SMALLEST)
    # A finite float16 is decided, see quantkit.kernels.rounding.
    checks, most, block = bool(formats) and outtype is not GGMLType.F16, np.float32(LARGEST), lane_rows.BLOCK

    def run(
        rows: npt.NDArray[Any],
        left: Floats,
        right: Floats,
        floats: Floats,
        bits: npt.NDArray[Any],
        outs: tuple[Bytes, ...],
    ) -> tuple[np.int32, int]:
        largest, outside, columns = np.int32(0), 0, rows.shape[1]
        step, scratch = floats.size // columns, np.empty(block, dtype=np.float32)
        for start in range(0, rows.shape[0], step):
            stop = min(start + step, rows.shape[0])
            strip = floats[: (stop - start) * columns]
            kept = bits[start * columns : stop * columns] if keeps else bits[: strip.size]
            shape = stop - start, columns
            size = merge(rows[start:stop], left[start:stop], right, strip.reshape(shape), kept.reshape(shape), scratch)
            largest = max(size, largest)
            if checks:
                outside += count_outside(strip, least, most)
            encode(strip, strip.view(np.int32), outs, start * columns)
        return largest, outside

    return compiled(run)


def _all_of(formats: tuple[GGMLType, ...]) -> Any:
    """A function that encodes a strip of floats, given also as words, from weight *first* of the outputs on."""

    @inlined
    def run(strip: Floats, words: npt.NDArray[np.int32], outs: tuple[Bytes, ...], first: int) -> None:
        pass

    for number, kind in enumerate(formats):
        run = _then(run, _ENCODERS[kind], number, kind.block)
    return run


def _then(before: Any, encode: lane_blocks.Encode, number: int, block: int) -> Any:
    @inlined
    def run(strip: Floats, words: npt.NDArray[np.int32], outs: tuple[Bytes, ...], first: int) -> None:
        before(strip, words, outs, first)
        count = strip.size // block
        out = outs[number][first // block : first // block + count]
        encode(strip.reshape(count, block), words.reshape(count, block), out)

    return run
