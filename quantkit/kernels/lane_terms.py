"""The nearest neighbour of a group of weights with three levels, compiled by numba.

An error is a sum of terms, one for each weight, and a term is one of three. So a candidate is two bits for each weight,
which choose from the terms; a vector holds :data:`WIDTH` candidates, a chunk of their list. LLVM's vector operations
are written out, as in ``lane_nearest.py``.
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
from quantkit.kernels.arithmetic import Bytes, Integers
from quantkit.kernels.grid_layout import Codes
from quantkit.kernels.grids import grid_of

# Candidates in a vector, weights in a group, and levels.
WIDTH, GROUP, LEVELS = 16, 8, 3
_FLOAT, _INT, _LONG, _BITS = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(WIDTH)
_FLOATS, _FLAGS, _PLACES = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, ir.IntType(1), _INT))
Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Table:
    """A grid as the look-up reads it.

    Attributes:
        own: the code of each lattice point, int32 [3**8]; -1 for one that is not on the grid.
        firsts: where the neighbours of each lattice point begin, in chunks, int32 [3**8 + 1].
        bits: which candidates of a chunk have level 1, and which level 2, by weight, uint16 [chunks, GROUP, 2], flat.
        codes: of candidates, uint16 [chunks * WIDTH]; the last of a list fills it up.
        levels: of each code, uint8 [codes, GROUP].
    """

    own: Integers
    firsts: Integers
    bits: Bits
    codes: Codes
    levels: Bytes


@cache
def table_of(kind: GGMLType) -> Table:
    """The grid of IQ1."""
    grid = grid_of(kind)
    assert (grid.shape.group, grid.shape.levels) == (GROUP, LEVELS)
    counts = np.diff(grid.starts)
    chunks = -(-counts // WIDTH)
    firsts = np.concatenate([[0], np.cumsum(chunks)]).astype(np.int32)
    places = np.arange(firsts[-1] * WIDTH) - (firsts[:-1] * WIDTH).repeat(chunks * WIDTH)
    within = np.minimum(places, (counts - 1).repeat(chunks * WIDTH))
    codes = grid.neighbours[grid.starts[:-1].repeat(chunks * WIDTH) + within]
    levels = grid.points[codes].reshape(-1, WIDTH, GROUP).transpose(0, 2, 1)
    both = np.stack([levels == 1, levels == 2], axis=2)
    bits = np.packbits(both, axis=3, bitorder="little").view("<u2").astype(np.uint16)
    return Table(grid.codes, firsts, bits.reshape(-1), codes, grid.points)


def _lowest(_: Any, bits: Any, chunk: Any, work: Any, terms: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        masks, data = (_data(context, builder, signature.args[at], arguments[at]) for at in (0, 2))
        start = builder.mul(arguments[1], _LONG(2 * GROUP))
        total = None
        for i in range(GROUP):
            zero, one, two = (_splat(builder, _at(builder, data, arguments[3], LEVELS * i + n)) for n in range(LEVELS))
            is_one, is_two = (builder.bitcast(_at(builder, masks, start, 2 * i + n), _FLAGS) for n in range(2))
            term = builder.select(is_two, two, builder.select(is_one, one, zero))
            total = term if total is None else builder.fadd(total, term)
        least = total
        for step in (8, 4, 2, 1):
            places = [(lane + step) % WIDTH for lane in range(WIDTH)]
            moved = builder.shuffle_vector(least, least, ir.Constant(_PLACES, places))
            least = builder.select(builder.fcmp_ordered("<", moved, least), moved, least)
        equal = builder.bitcast(builder.fcmp_ordered("==", total, least), _BITS)
        lane = builder.zext(builder.cttz(equal, ir.IntType(1)(0)), _LONG)
        # No error is below zero, so the order of their bits is that of the errors.
        error = builder.bitcast(builder.extract_element(least, _INT(0)), _INT)
        return builder.or_(builder.shl(builder.zext(error, _LONG), _LONG(32)), lane)

    return types.int64(bits, types.int64, work, types.int64), generate


# Of the bits of candidates, a chunk, a work array (float32) and where the terms are there, GROUP * LEVELS: the bits of
# the least error in the high word, and in the low one the first candidate that has it.
lowest: Callable[[Bits, Any, npt.NDArray[np.float32], int], np.int64] = intrinsic(_lowest)


def _data(context: Any, builder: Any, array: Any, value: Any) -> Any:
    """The pointer to an array's data."""
    return context.make_array(array)(context, builder, value).data


def _at(builder: Any, data: Any, start: Any, number: int) -> Any:
    return builder.load(builder.gep(data, [builder.add(start, _LONG(number))]))


def _splat(builder: Any, value: Any) -> Any:
    """A vector of a value."""
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_PLACES, [0] * WIDTH))
