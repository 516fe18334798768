"""The nearest neighbour of a group of weights, compiled by numba: a vector holds eight candidates.

Lists of neighbours are short, so a loop over them would not be vectorized: LLVM's vector operations are written out.

A search tries many scales that lie close together, and for most of them a group has the same list. The error of a
candidate is ``scale * (a * scale - b)`` and a part that all candidates share, so the nearest is the one with the lowest
of some lines at that scale. ``set_lines`` finds a and b once for a list. ``lowest`` says which line is lower than all
others by more than rounding can change in ggml's sums; if none is, ``nearest`` has ggml's sums. Two lines cross once: a
line that is the lowest at two scales is so between them.
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

# Candidates in a vector.
WIDTH = 8
_FLOAT, _BYTE, _INT, _LONG = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_FLOATS, _BYTES, _INTS = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, _BYTE, _INT))
Compiled = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Table:
    """A grid as the search reads it.

    Attributes:
        own: the word of each lattice point that is on the grid, uint32 [levels**group], see ``Grid.words``.
        counts: of its neighbours, int32 [levels**group]; zero for a point on the grid.
        firsts: where they begin, in chunks of :data:`WIDTH`, int32 [levels**group].
        candidates: their values, odd numbers, int8 [chunks, group, WIDTH], flat.
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
    firsts = np.cumsum(chunks) - chunks
    places = np.arange(grid.neighbours.size) - grid.starts[:-1].repeat(counts) + firsts.repeat(counts) * WIDTH
    codes = np.zeros(int(chunks.sum()) * WIDTH, dtype=np.uint16)
    codes[places] = grid.neighbours
    values = (2 * grid.points[codes] + 1).astype(np.int8).reshape(-1, WIDTH, grid.shape.group)
    own = grid.words(np.maximum(grid.codes, 0))
    assert (lattice(grid.shape)[grid.codes >= 0, 0] == own[grid.codes >= 0] & (1 << grid.bits) - 1).all()
    candidates = np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(-1)
    return Table(own, counts, firsts.astype(np.int32), candidates, grid.words(codes))


class _Lists:
    """Builds the errors of the candidates in one chunk."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any, group: int) -> None:
        self.builder, self._group = builder, group
        self._candidates, work = (_data(context, builder, signature.args[at], arguments[at]) for at in (0, 3))
        self._first, self._count = arguments[1:3]
        load = [[self._load(work, at, i) for i in range(group)] for at in arguments[4:6]]
        self._x, self._w = ([_splat(builder, value, _FLOATS) for value in values] for values in load)

    def _load(self, pointer: Any, at: Any, i: int) -> Any:
        return self.builder.load(self.builder.gep(pointer, [self.builder.add(at, at.type(i))]))

    def values(self, chunk: int) -> list[Any]:
        """The values of the candidates, by place in the group."""
        at = self.builder.mul(self.builder.add(self._first, self._first.type(chunk)), self._first.type(self._group))
        found = []
        for i in range(self._group):
            offset = self.builder.mul(self.builder.add(at, at.type(i)), at.type(WIDTH))
            pointer = self.builder.bitcast(self.builder.gep(self._candidates, [offset]), _BYTES.as_pointer())
            found.append(self.builder.sitofp(self.builder.load(pointer, align=1), _FLOATS))
        return found

    def errors(self, values: list[Any], scale: Any, chunk: int) -> Any:
        """The errors of the candidates, in ggml's order of sums; infinite behind the last."""
        scales, total = _splat(self.builder, scale, _FLOATS), ir.Constant(_FLOATS, [0.0] * WIDTH)
        for value, x, w in zip(values, self._x, self._w, strict=True):
            difference = self.builder.fsub(self.builder.fmul(scales, value), x)
            total = self.builder.fadd(total, self.builder.fmul(self.builder.fmul(w, difference), difference))
        return self._mask(total, chunk)

    def lines(self, values: list[Any], chunk: int) -> tuple[Any, Any]:
        """The slope and the negated offset of each candidate's line; infinite behind the last."""
        slopes, offsets = (ir.Constant(_FLOATS, [0.0] * WIDTH) for _ in range(2))
        for value, x, w in zip(values, self._x, self._w, strict=True):
            weighted = self.builder.fmul(w, value)
            slopes = self.builder.fadd(slopes, self.builder.fmul(weighted, value))
            offsets = self.builder.fsub(offsets, self.builder.fmul(weighted, self.builder.fadd(x, x)))
        return slopes, self._mask(offsets, chunk)

    def _mask(self, vector: Any, chunk: int) -> Any:
        lanes = ir.Constant(_INTS, [chunk * WIDTH + lane for lane in range(WIDTH)])
        there = self.builder.icmp_signed("<", lanes, _splat(self.builder, self._count, _INTS))
        return self.builder.select(there, vector, ir.Constant(_FLOATS, [float("inf")] * WIDTH))


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    """A vector of a value."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _INT(0))
    zeros = ir.Constant(ir.VectorType(_INT, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _least(builder: Any, vectors: list[Any]) -> Any:
    """The least float of vectors; none is NaN."""
    low = vectors[0]
    for other in vectors[1:]:
        low = builder.select(builder.fcmp_ordered("<", other, low), other, low)
    step = WIDTH // 2
    while step:
        places = [(lane + step) % WIDTH for lane in range(WIDTH)]
        moved = builder.shuffle_vector(low, low, ir.Constant(_INTS, places))
        low = builder.select(builder.fcmp_ordered("<", moved, low), moved, low)
        step //= 2
    return builder.extract_element(low, _INT(0))


def _mask(builder: Any, lanes: Any) -> Any:
    """A bit for each lane, as an int."""
    return builder.zext(builder.bitcast(lanes, ir.IntType(WIDTH)), _INT)


@cache
def nearest(group: int) -> Compiled:
    """Compile the search of one chunk, for groups of so many weights.

    The result is a function of candidates (int8, see :class:`Table`), the first chunk, how many candidates of the list
    are left from there, a work array (float32), the offsets of values and weights there, and the scale. It returns the
    bits of the least error in the high word, and in the low one the first candidate that has it.
    """

    def typed(_: Any, candidates: Any, first: Any, count: Any, work: Any, x: Any, w: Any, scale: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            lists = _Lists(context, builder, signature, arguments, group)
            errors = lists.errors(lists.values(0), arguments[6], 0)
            least = _least(builder, [errors])
            equal = _mask(builder, builder.fcmp_ordered("==", errors, _splat(builder, least, _FLOATS)))
            lane = builder.zext(builder.cttz(equal, ir.IntType(1)(1)), _LONG)
            # No error is below zero, so the order of their bits is that of the errors.
            bits = builder.zext(builder.bitcast(least, _INT), _LONG)
            return builder.or_(builder.shl(bits, _LONG(32)), lane)

        return types.int64(
            candidates, types.int64, types.int32, work, types.int64, types.int64, types.float32
        ), generate

    result: Compiled = intrinsic(typed)
    return result


@cache
def set_lines(group: int, chunks: int) -> Compiled:
    """Compile the lines of the candidates of a list of at most so many chunks.

    The arguments are those of :func:`nearest`, but in place of the scale the offset in the work array of what it
    writes, float32 [chunks * 2 * WIDTH]: slopes and offsets.
    """

    def typed(_: Any, candidates: Any, first: Any, count: Any, work: Any, x: Any, w: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            lists = _Lists(context, builder, signature, arguments, group)
            data = _data(context, builder, work, arguments[3])
            for chunk in range(chunks):
                for number, part in enumerate(lists.lines(lists.values(chunk), chunk)):
                    builder.store(part, _line_pointer(builder, data, arguments[6], 2 * chunk + number), align=4)
            return context.get_dummy_value()

        return types.none(candidates, types.int64, types.int32, work, types.int64, types.int64, types.int64), generate

    result: Compiled = intrinsic(typed)
    return result


@cache
def lowest(chunks: int) -> Compiled:
    """Compile the search of the lowest line, of at most so many chunks.

    The result is a function of the work array, the offset there of what :func:`set_lines` wrote, a scale and a margin.
    It returns the candidate whose line is below all others by the margin at that scale, int32; -1 if there is none.
    """

    def typed(_: Any, work: Any, lines: Any, scale: Any, margin: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data, scales = _data(context, builder, work, arguments[0]), _splat(builder, arguments[2], _FLOATS)
            heights = []
            for chunk in range(chunks):
                slope, offset = (
                    builder.load(_line_pointer(builder, data, arguments[1], 2 * chunk + number), align=4)
                    for number in range(2)
                )
                heights.append(builder.fadd(builder.fmul(scales, slope), offset))
            limit = _splat(builder, builder.fadd(_least(builder, heights), arguments[3]), _FLOATS)
            close = _INT(0)
            for chunk, height in enumerate(heights):
                bits = _mask(builder, builder.fcmp_ordered("<", height, limit))
                close = builder.or_(close, builder.shl(bits, _INT(chunk * WIDTH)))
            alone = builder.icmp_signed("==", builder.and_(close, builder.sub(close, _INT(1))), _INT(0))
            return builder.select(alone, builder.cttz(close, ir.IntType(1)(0)), _INT(-1))

        return types.int32(work, types.int64, types.float32, types.float32), generate

    result: Compiled = intrinsic(typed)
    return result


def _data(context: Any, builder: Any, array: Any, value: Any) -> Any:
    """The pointer to an array's data."""
    return context.make_array(array)(context, builder, value).data


def _line_pointer(builder: Any, data: Any, at: Any, number: int) -> Any:
    pointer = builder.gep(data, [builder.add(at, _LONG(number * WIDTH))])
    return builder.bitcast(pointer, _FLOATS.as_pointer())
