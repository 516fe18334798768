"""The grids of IQ1, IQ2 and IQ3: which groups of weights have a code, and the nearest of those for all others.

The points are read from libggml, by decoding every code once: nothing is copied from its tables. The neighbours follow
from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Bytes, Integers
from quantkit.kernels.formats import GRID_SHAPES, SUPER_BLOCK, GridShape
from quantkit.kernels.grid_layout import PACKERS, Codes, only_codes

# Words of neighbours that a thread of a device reads at once.
READ_AT_ONCE = 4
# The bits of all levels in a word of :meth:`Grid.words`, after which the code comes.
WORD_LEVELS = 16


@dataclass(frozen=True, eq=False)
class Grid:
    """The points of a grid, and the neighbours of the points that are not on it.

    A lattice point is a choice of a level for each weight of a group; its number is ``sum(level[i] * levels**i)``.

    Attributes:
        shape: its numbers.
        points: the levels of each code, uint8 [codes, group].
        codes: the code of each lattice point, int32 [levels**group]; -1 for one that is not on the grid.
        starts: where the neighbours of each lattice point begin, int32 [levels**group + 1]; one on the grid has none.
        neighbours: codes, uint16 [all]: for each lattice point by distance, then by code.
    """

    shape: GridShape
    points: Bytes
    codes: Integers
    starts: Integers
    neighbours: Codes

    @property
    def bits(self) -> int:
        """Bits of a level in a word."""
        return WORD_LEVELS // self.shape.group

    def words(self, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.uint32]:
        """Points as words, uint32 of the same shape: the levels, the first in the lowest bits, and then the code."""
        shifts = np.arange(0, WORD_LEVELS, self.bits, dtype=np.uint32)
        levels: npt.NDArray[np.uint32] = np.bitwise_or.reduce(self.points.astype(np.uint32) << shifts, axis=1)
        words: npt.NDArray[np.uint32] = levels[codes] | codes.astype(np.uint32) << WORD_LEVELS
        return words


@cache
def device_table(kind: GGMLType) -> npt.NDArray[np.uint32]:
    """A grid as ``grid.cu`` reads it, uint32.

    An entry for each lattice point: the number of its neighbours above 20 bits, and where the words of those are. Then
    come all words: each list begins at a multiple of four words in the table, and its last word is repeated up to the
    next. A point on the grid has no neighbours, and its own word is there.
    """
    grid = grid_of(kind)
    on = np.flatnonzero(grid.codes >= 0)
    counts = np.diff(grid.starts)
    room = -(-counts // READ_AT_ONCE) * READ_AT_ONCE
    before = -grid.codes.size % READ_AT_ONCE
    places = before + np.cumsum(room) - room
    point = np.repeat(np.arange(counts.size), room)
    number = np.minimum(before + np.arange(point.size) - places[point], counts[point] - 1)
    neighbours = grid.words(grid.neighbours[grid.starts[point] + number])
    words = np.concatenate([np.zeros(before, dtype=np.uint32), neighbours, grid.words(grid.codes[on])])
    places[on] = before + neighbours.size + np.arange(on.size)
    assert words.size < 1 << 20
    assert counts.max() < 1 << 12
    return np.concatenate([(counts << 20 | places).astype(np.uint32), words])


@cache
def grid_of(kind: GGMLType) -> Grid:
    """The grid of a type of :data:`quantkit.kernels.formats.GRID_SHAPES`."""
    if kind is GGMLType.IQ1_M:
        return grid_of(GGMLType.IQ1_S)
    shape = GRID_SHAPES[kind]
    points = _read_points(kind, shape)
    codes = np.full(shape.levels**shape.group, -1, dtype=np.int32)
    codes[points @ shape.levels ** np.arange(shape.group)] = np.arange(shape.codes)
    counts, neighbours = _find_neighbours(shape, points, np.flatnonzero(codes < 0))
    starts = np.zeros(codes.size + 1, dtype=np.int32)
    starts[1:][codes < 0] = counts
    return Grid(shape, points, codes, np.cumsum(starts, dtype=np.int32), neighbours)


def lattice(shape: GridShape) -> Bytes:
    """The levels of every lattice point, uint8 [levels**group, group]."""
    numbers = np.arange(shape.levels**shape.group)[:, None]
    return (numbers // shape.levels ** np.arange(shape.group) % shape.levels).astype(np.uint8)


def _read_points(kind: GGMLType, shape: GridShape) -> Bytes:
    codes = np.arange(shape.codes, dtype=np.uint16).reshape(-1, SUPER_BLOCK // shape.group)
    values = ggml.dequantize_rows(kind, PACKERS[kind](only_codes(kind, codes)).tobytes(), SUPER_BLOCK)
    # Their order is that of the levels, whatever values a type decodes these to.
    different = np.unique(values)
    assert different.size == shape.levels, (kind, different)
    return np.searchsorted(different, values).astype(np.uint8).reshape(-1, shape.group)


def _find_neighbours(shape: GridShape, points: Bytes, off: npt.NDArray[np.intp]) -> tuple[Integers, Codes]:
    """How many neighbours each of the lattice points *off* the grid has, and their codes one after the other."""
    some, all_points = lattice(shape)[off].astype(np.float32), points.astype(np.float32)
    squares = [(levels * levels).sum(axis=1) for levels in (some, all_points)]
    # Whole numbers below 256, exact in float32.
    distances = (squares[0][:, None] + squares[1] - 2 * (some @ all_points.T)).astype(np.uint8)
    farthest = distances.min(axis=1)
    for _ in range(shape.distances - 1):
        beyond = np.where(distances > farthest[:, None], distances, np.uint8(255))
        farthest = beyond.min(axis=1)
    rows, codes = np.nonzero(distances <= farthest[:, None])
    order = np.argsort(rows * 256 + distances[rows, codes], kind="stable")
    return np.bincount(rows, minlength=off.size).astype(np.int32), codes[order].astype(np.uint16)
