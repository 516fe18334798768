"""The nearest neighbour of a group of weights, compiled by numba: a vector holds eight candidates.

Lists of neighbours are short, so a loop over them would not be vectorized: LLVM's vector operations are written out.

A search tries many scales that lie close together, and for most of them a group has the same list. The error of a
candidate is ``scale * (a * scale - b)`` and a part that all candidates share, so the nearest is the one with the lowest
of some lines at that scale. ``survey`` finds a and b once for a list, and which line is lower than all others by more
than rounding can change in ggml's sums. Two lines cross once: a line that is the lowest at two scales is so between
them. ``lowest`` asks the same at one scale; if no line is, ``nearest`` has ggml's sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Integers
from quantkit.kernels.grids import grid_of, lattice
from quantkit.kernels.lane_vectors import (
    BYTES,
    FLOATS,
    INT,
    INTS,
    LONG,
    WIDTH,
    Lowest,
    constant,
    data_of,
    each_chunk,
    fused,
    splat,
)

# Vectors in the longest list.
CHUNKS = 40
Compiled = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Table:
    """A grid as the search reads it.

    Attributes:
        own: the word of each lattice point that is on the grid, uint32 [levels**group], see ``Grid.words``.
        counts: of its neighbours, int32 [levels**group]; zero for a point on the grid.
        firsts: where they begin, in chunks of :data:`WIDTH`, int32 [levels**group].
        candidates: their values, odd numbers, int8 [chunks, group, WIDTH], flat; behind the last of
            a list are values far from all.
        words: their words, uint32 [chunks * WIDTH].
    """

    own: npt.NDArray[np.uint32]
    counts: Integers
    firsts: Integers
    candidates: npt.NDArray[np.int8]
    words: npt.NDArray[np.uint32]


@cache
def table_of(kind: GGMLType) -> Table:
    """The grid of a type of :data:`quantkit.kernels.formats.GRID_SHAPES`."""
    grid = grid_of(kind)
    counts = np.diff(grid.starts)
    chunks = -(-counts // WIDTH)
    assert chunks.max() <= CHUNKS
    firsts = np.cumsum(chunks) - chunks
    places = np.arange(grid.neighbours.size) - grid.starts[:-1].repeat(counts) + firsts.repeat(counts) * WIDTH
    codes = np.zeros(int(chunks.sum()) * WIDTH, dtype=np.uint16)
    codes[places] = grid.neighbours
    values = np.full((codes.size, grid.shape.group), 127, dtype=np.int8)
    values[places] = 2 * grid.points[grid.neighbours] + 1
    own = grid.words(np.maximum(grid.codes, 0))
    assert (lattice(grid.shape)[grid.codes >= 0, 0] == own[grid.codes >= 0] & (1 << grid.bits) - 1).all()
    candidates = np.ascontiguousarray(values.reshape(-1, WIDTH, grid.shape.group).transpose(0, 2, 1)).reshape(-1)
    return Table(own, counts, firsts.astype(np.int32), candidates, grid.words(codes))


class _Lists:
    """Builds what is asked of the candidates of a list, a vector of them at a time.

    The arguments of all intrinsics begin with candidates (int8, see :class:`Table`), the first chunk, how many
    candidates there are, a work array (float32), and the offsets there of the group's values and their weights.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any, group: int) -> None:
        self.builder, self._group = builder, group
        self._candidates, self.work = (data_of(context, builder, signature.args[at], arguments[at]) for at in (0, 3))
        self._first, self._count = arguments[1:3]
        load = [[self._load(self.work, at, i) for i in range(group)] for at in arguments[4:6]]
        self._x, self._w = ([splat(builder, value, FLOATS) for value in values] for values in load)
        self._twice = [builder.fneg(builder.fmul(w, builder.fadd(x, x))) for x, w in zip(self._x, self._w, strict=True)]

    def _load(self, pointer: Any, at: Any, i: int) -> Any:
        return self.builder.load(self.builder.gep(pointer, [self.builder.add(at, at.type(i))]))

    def values(self, chunk: Any) -> list[Any]:
        """The values of the candidates, by place in the group."""
        at = self.builder.mul(self.builder.add(self._first, chunk), self._first.type(self._group))
        found = []
        for i in range(self._group):
            offset = self.builder.mul(self.builder.add(at, at.type(i)), at.type(WIDTH))
            pointer = self.builder.bitcast(self.builder.gep(self._candidates, [offset]), BYTES.as_pointer())
            found.append(self.builder.sitofp(self.builder.load(pointer, align=1), FLOATS))
        return found

    def errors(self, values: list[Any], scales: Any) -> Any:
        """The errors of the candidates, in ggml's order of sums."""
        total = constant(0.0)
        for value, x, w in zip(values, self._x, self._w, strict=True):
            difference = self.builder.fsub(self.builder.fmul(scales, value), x)
            total = self.builder.fadd(total, self.builder.fmul(self.builder.fmul(w, difference), difference))
        return total

    def lines(self, values: list[Any]) -> tuple[Any, Any]:
        """The slope and the negated offset of each candidate's line."""
        slopes, offsets = constant(0.0), constant(0.0)
        for value, w, twice in zip(values, self._w, self._twice, strict=True):
            slopes = fused(self.builder, self.builder.fmul(w, value), value, slopes)
            offsets = fused(self.builder, twice, value, offsets)
        return slopes, offsets


@cache
def nearest(group: int, chunks: int = 0) -> Compiled:
    """Compile the search of the nearest candidate by ggml's sums, for groups of so many weights.

    The result is a function of the arguments of :class:`_Lists` and a scale. It returns the first candidate that has
    the least error, int32.
    """

    def typed(_: Any, candidates: Any, first: Any, count: Any, work: Any, x: Any, w: Any, scale: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            lists, lowest = _Lists(context, builder, signature, arguments, group), Lowest(builder)
            scales, counts = splat(builder, arguments[6], FLOATS), splat(builder, arguments[2], INTS)
            for chunk in each_chunk(builder, arguments[2], chunks):
                errors = lists.errors(lists.values(chunk), scales)
                start = builder.mul(builder.trunc(chunk, INT), INT(WIDTH))
                lanes = builder.add(splat(builder, start, INTS), ir.Constant(INTS, list(range(WIDTH))))
                there = builder.icmp_signed("<", lanes, counts)
                lowest.add(builder.select(there, errors, constant(float("inf"))), chunk)
            return lowest.first()

        return types.int32(
            candidates, types.int64, types.int32, work, types.int64, types.int64, types.float32
        ), generate

    result: Compiled = intrinsic(typed)
    return result


@cache
def survey(group: int, chunks: int = 0) -> Compiled:
    """Compile the lines of the candidates of a list, and which of them is the lowest at two scales.

    The result is a function of the arguments of :class:`_Lists`, the offset in the work array of what it writes there,
    float32 [CHUNKS * 2 * WIDTH], slopes and offsets; and of two scales, each followed by a margin. It returns the
    candidate whose line is below all others by the margin at both scales, int32; -1 if there is none.
    """

    def typed(
        _: Any,
        candidates: Any,
        first: Any,
        count: Any,
        work: Any,
        x: Any,
        w: Any,
        out: Any,
        a: Any,
        b: Any,
        c: Any,
        d: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            lists, lowests = _Lists(context, builder, signature, arguments, group), [Lowest(builder), Lowest(builder)]
            scales = [splat(builder, arguments[at], FLOATS) for at in (7, 9)]
            for chunk in each_chunk(builder, arguments[2], chunks):
                slopes, offsets = lists.lines(lists.values(chunk))
                for number, part in enumerate((slopes, offsets)):
                    builder.store(part, _line_pointer(builder, lists.work, arguments[6], chunk, number), align=4)
                for scale, lowest in zip(scales, lowests, strict=True):
                    lowest.add(fused(builder, scale, slopes, offsets), chunk)
            one, other = (lowest.alone(arguments[at]) for lowest, at in zip(lowests, (8, 10), strict=True))
            same = builder.and_(builder.icmp_signed("==", one, other), builder.icmp_signed("<", one, arguments[2]))
            return builder.select(same, one, INT(-1))

        return types.int32(
            candidates, types.int64, types.int32, work, types.int64, types.int64, types.int64, *[types.float32] * 4
        ), generate

    result: Compiled = intrinsic(typed)
    return result


@cache
def lowest(chunks: int = 0) -> Compiled:
    """Compile the search of the lowest line.

    The result is a function of the work array, the offset there of what :func:`survey` wrote, how many candidates there
    are, a scale and a margin. It returns the candidate whose line is below all others by the margin at that scale,
    int32; -1 if there is none.
    """

    def typed(_: Any, work: Any, lines: Any, count: Any, scale: Any, margin: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data, scales = data_of(context, builder, work, arguments[0]), splat(builder, arguments[3], FLOATS)
            search = Lowest(builder)
            for chunk in each_chunk(builder, arguments[2], chunks):
                slope, offset = (
                    builder.load(_line_pointer(builder, data, arguments[1], chunk, number), align=4)
                    for number in range(2)
                )
                search.add(fused(builder, scales, slope, offset), chunk)
            found = search.alone(arguments[4])
            return builder.select(builder.icmp_signed("<", found, arguments[2]), found, INT(-1))

        return types.int32(work, types.int64, types.int32, types.float32, types.float32), generate

    result: Compiled = intrinsic(typed)
    return result


def _line_pointer(builder: Any, data: Any, at: Any, chunk: Any, number: int) -> Any:
    place = builder.add(builder.mul(chunk, LONG(2 * WIDTH)), LONG(number * WIDTH))
    return builder.bitcast(builder.gep(data, [builder.add(at, place)]), FLOATS.as_pointer())
