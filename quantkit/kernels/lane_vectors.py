"""LLVM's vector operations, for numba functions that find the lowest of a list: a vector holds eight of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils

# Floats in a vector.
WIDTH = 8
INT, LONG, _FLOAT, _BYTE = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.IntType(8)
FLOATS, BYTES, INTS = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, _BYTE, INT))


class Lowest:
    """Builds the search of the lowest of some floats, a vector of them after the other; none is NaN.

    In each lane it keeps the lowest, its chunk, and the lowest but one.
    """

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self._low, self._second = (cgutils.alloca_once(builder, FLOATS) for _ in range(2))
        self._chunk = cgutils.alloca_once(builder, INTS)
        for place in (self._low, self._second):
            builder.store(constant(float("inf")), place)
        builder.store(ir.Constant(INTS, [0] * WIDTH), self._chunk)

    def add(self, vector: Any, chunk: Any) -> None:
        """Take a chunk."""
        builder = self._builder
        if chunk == LONG(0):  # a constant: not in a loop
            builder.store(vector, self._low)
            return
        low, second = builder.load(self._low), builder.load(self._second)
        less = builder.fcmp_ordered("<", vector, low)
        higher = builder.select(less, low, vector)
        builder.store(builder.select(builder.fcmp_ordered("<", higher, second), higher, second), self._second)
        builder.store(builder.select(less, vector, low), self._low)
        chunks = splat(builder, builder.trunc(chunk, INT), INTS)
        builder.store(builder.select(less, chunks, builder.load(self._chunk)), self._chunk)

    def first(self) -> Any:
        """The first of the lowest, an int."""
        builder, low = self._builder, self._builder.load(self._low)
        least = _reduce(builder, low, builder.fcmp_ordered)
        lanes = ir.Constant(INTS, list(range(WIDTH)))
        places = builder.add(builder.mul(builder.load(self._chunk), ir.Constant(INTS, [WIDTH] * WIDTH)), lanes)
        equal = builder.fcmp_ordered("==", low, splat(builder, least, FLOATS))
        there = builder.select(equal, places, ir.Constant(INTS, [0x7FFFFFFF] * WIDTH))
        return _reduce(builder, there, builder.icmp_signed)

    def alone(self, margin: Any) -> Any:
        """The lowest, an int, if it is below all others by the margin; otherwise -1."""
        builder, low = self._builder, self._builder.load(self._low)
        least = _reduce(builder, low, builder.fcmp_ordered)
        limits = splat(builder, builder.fadd(least, margin), FLOATS)
        close, others = (
            _mask(builder, builder.fcmp_ordered("<", vector, limits)) for vector in (low, builder.load(self._second))
        )
        others = builder.or_(others, builder.and_(close, builder.sub(close, INT(1))))
        none = builder.or_(builder.icmp_signed("!=", others, INT(0)), builder.icmp_signed("==", close, INT(0)))
        lane = builder.and_(builder.cttz(close, ir.IntType(1)(0)), INT(WIDTH - 1))
        chunk = builder.extract_element(builder.load(self._chunk), lane)
        return builder.select(none, INT(-1), builder.add(builder.mul(chunk, INT(WIDTH)), lane))


def constant(value: float) -> Any:
    return ir.Constant(FLOATS, [value] * WIDTH)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once where the processor can do that at once."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    return builder.call(builder.module.declare_intrinsic(f"llvm.fmuladd.v{WIDTH}f32", (), kind), [a, b, c])


def splat(builder: Any, value: Any, vector: Any) -> Any:
    """A vector of a value."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, INT(0))
    zeros = ir.Constant(ir.VectorType(INT, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _reduce(builder: Any, low: Any, compare: Callable[..., Any]) -> Any:
    """The least of a vector."""
    step = WIDTH // 2
    while step:
        places = [(lane + step) % WIDTH for lane in range(WIDTH)]
        moved = builder.shuffle_vector(low, low, ir.Constant(INTS, places))
        low = builder.select(compare("<", moved, low), moved, low)
        step //= 2
    return builder.extract_element(low, INT(0))


def _mask(builder: Any, lanes: Any) -> Any:
    """A bit for each lane, as an int."""
    return builder.zext(builder.bitcast(lanes, ir.IntType(WIDTH)), INT)


def each_chunk(builder: Any, count: Any, chunks: int) -> Iterator[Any]:
    """Build the work on every chunk of so many candidates: one after the other, or a loop where *chunks* is 0."""
    if chunks:
        yield from map(LONG, range(chunks))
        return
    every = builder.lshr(builder.zext(builder.add(count, INT(WIDTH - 1)), LONG), LONG(WIDTH.bit_length() - 1))
    with cgutils.for_range(builder, every) as loop:
        yield loop.index


def data_of(context: Any, builder: Any, array: Any, value: Any) -> Any:
    """The pointer to an array's data."""
    return context.make_array(array)(context, builder, value).data
