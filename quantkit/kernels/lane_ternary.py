"""IQ1 compiled by numba: ``lane_splits.py`` finds the levels of blocks, and their groups become points of a grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from quantkit.ggml.types import GGMLType
from quantkit.kernels import lane_units
from quantkit.kernels.arithmetic import Bytes, Floats, Integers, half_bytes
from quantkit.kernels.formats import SPLIT_FORMATS, SUPER_BLOCK, SplitFormat
from quantkit.kernels.grid_layout import PACKERS, Codes, Parts, store_split_scales
from quantkit.kernels.lane_common import ONE, ZERO, compiled, inlined
from quantkit.kernels.lane_splits import LANES, free_at, scale_at, search
from quantkit.kernels.lane_terms import GROUP, LEVELS, WIDTH, Bits, lowest, table_of
from quantkit.kernels.searches import LEVEL_MOVE

F32 = np.float32
# The arrays of a :class:`quantkit.kernels.lane_terms.Table`.
Arrays = tuple[Integers, Integers, Bits, Codes, Bytes]
# (blocks, weights, grid, work, ranks, best, scales, codes, moves), see blocks_of.
Blocks = Callable[[Floats, Floats, Arrays, Floats, Integers, Integers, Floats, Codes, Bytes], None]
_MOVE = F32(LEVEL_MOVE)
# Levels have their signs, and a block of zeros has a code.
_NEITHER = np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.bool_)


def encode(form: SplitFormat, rows: Floats, importance: Floats | None = None) -> Bytes:
    """Encode rows.

    Args:
        form: the format.
        rows: float32, contiguous, columns a multiple of 256.
        importance: float32, shape [columns], or None.

    Returns:
        uint8, shape [super-blocks, bytes per super-block].
    """
    flat, block = rows.reshape(-1, SUPER_BLOCK), form.shape.block
    weights = lane_units.weigh_blocks(flat, importance, 0 if importance is None else 2)
    count, each = len(flat), SUPER_BLOCK // block
    scales, moves = np.empty((count, each), dtype=np.float32), np.empty((count, each), dtype=np.uint8)
    codes = np.empty((count, SUPER_BLOCK // GROUP), dtype=np.uint16)
    blocks_of(form.type)(
        flat.reshape(-1, block),
        weights.reshape(-1, block),
        _arrays(form.type),
        np.zeros(free_at(block) + GROUP * LEVELS, dtype=np.float32),
        np.zeros(block * LANES, dtype=np.int32),
        np.zeros(LANES, dtype=np.int32),
        scales.reshape(-1),
        codes.reshape(-1, block // GROUP),
        moves.reshape(-1),
    )
    unit, steps = store_split_scales(scales)
    some = scales.any(axis=1)
    if form.fits_unit:
        fit_units(flat, weights, table_of(form.type).levels, codes, moves, steps, unit)
    moves[~some] = 0
    unit = np.where(some, unit * F32(form.factor), F32(0))
    return PACKERS[form.type](Parts(half_bytes(unit), steps | moves << np.uint8(3), codes, *_NEITHER))


@cache
def _arrays(kind: GGMLType) -> Arrays:
    table = table_of(kind)
    return table.own, table.firsts, table.bits, table.codes, table.levels


@cache
def blocks_of(kind: GGMLType) -> Blocks:
    """Compile what finds the scales, the codes and the moves of blocks.

    Returns:
        A function of blocks and the weights of their errors, float32 [blocks, block]; the arrays of the grid; arrays to
        work in, float32 [free_at + GROUP * LEVELS], int32 [block * LANES], int32 [LANES]; and what it writes: scales,
        float32 [blocks], codes, uint16 [blocks, groups], and moves, a bit for each part, uint8 [blocks].
    """
    form = SPLIT_FORMATS[kind]
    block, parts, nothing = form.shape.block, form.search.parts, F32(form.nothing)
    groups, everything, scale_start, free = block // GROUP, (1 << parts) - 1, scale_at(block), free_at(block)
    find, per_part = search(block, parts), groups // parts

    @inlined
    def look_up(x: Floats, w: Floats, grid: Arrays, work: Floats, point: np.int32, scale: F32, move: F32) -> np.uint16:
        """The code of the nearest neighbour of a lattice point off the grid, for the weights of a group."""
        _, firsts, bits, codes, _ = grid
        for i in range(GROUP):
            for level in range(LEVELS):
                difference = scale * (F32(level - 1) + move) - x[i]
                work[free + LEVELS * i + level] = w[i] * difference * difference
        best = np.int64(0x7FFFFFFFFFFFFFFF)
        for chunk in range(np.int64(firsts[point]), np.int64(firsts[point + 1])):
            # The number of a candidate above the lane: of equal errors the first counts.
            found = lowest(bits, chunk, work, free) + (chunk - firsts[point]) * WIDTH
            best = found if found < best else best
        code: np.uint16 = codes[firsts[point] * WIDTH + (best & np.int64(0xFFFFFFFF))]
        return code

    @inlined
    def level_of(ranks: Integers, at: int, first: np.int32, second: np.int32, below: bool) -> np.int32:
        level = np.int32(ranks[at] >= first) + np.int32(ranks[at] >= second)
        return np.int32(2) - level if below else level

    @inlined
    def take_points(
        x: Floats, w: Floats, grid: Arrays, work: Floats, ranks: Integers, j: int, split: np.int32, codes: Codes
    ) -> tuple[F32, int]:
        """Write the codes of the block in lane *j*; returns its scale and moves."""
        first, second, moves = split >> np.int32(8), split >> np.int32(2) & np.int32(63), int(split) & 3
        scale, off = work[scale_start + j], False
        below = scale < ZERO
        if below:
            scale, moves = -scale, everything - moves
        sum_qx = sum_q2 = ZERO
        for k in range(groups):
            point, factor = np.int32(0), np.int32(1)
            for i in range(GROUP):
                point += factor * level_of(ranks, (k * GROUP + i) * LANES + j, first, second, below)
                factor *= np.int32(LEVELS)
            move = -_MOVE if moves >> (parts - 1 - k // per_part) & 1 else _MOVE
            code = grid[0][point]
            if code < 0:
                off, code = True, np.int32(look_up(x[k * GROUP :], w[k * GROUP :], grid, work, point, scale, move))
            codes[k] = code
            for i in range(GROUP):
                q, v = F32(grid[4][code, i]) - ONE + move, w[k * GROUP + i]
                sum_qx += v * q * x[k * GROUP + i]
                sum_q2 += v * q * q
        return (sum_qx / sum_q2 if off and sum_qx > ZERO and sum_q2 > ZERO else scale), moves

    def run(
        blocks: Floats,
        weights: Floats,
        grid: Arrays,
        work: Floats,
        ranks: Integers,
        best: Integers,
        scales: Floats,
        codes: Codes,
        moves: Bytes,
    ) -> None:
        lanes = best.size  # a constant would be unrolled, and then not vectorized
        for base in range(0, scales.size, LANES):
            here = min(LANES, scales.size - base)
            for j in range(here):
                for i in range(block):
                    work[i * LANES + j], work[(block + i) * LANES + j] = blocks[base + j, i], weights[base + j, i]
            find(work, ranks, best, lanes)
            for j in range(here):
                b, largest = base + j, ZERO
                for i in range(block):
                    size = abs(blocks[b, i])
                    largest = size if size > largest else largest
                if largest < nothing or best[j] < 0:
                    scales[b], moves[b], codes[b, :] = ZERO, 0, 0
                else:
                    scales[b], moves[b] = take_points(blocks[b], weights[b], grid, work, ranks, j, best[j], codes[b])

    return compiled(run)


@compiled
def fit_units(
    rows: Floats, weights: Floats, levels: Bytes, codes: Codes, moves: Bytes, steps: Bytes, units: Floats
) -> None:
    """Fit the units of IQ1_M to what is stored.

    Args:
        rows: float32 [n, 256].
        weights: of errors, likewise.
        levels: of codes, uint8 [codes, 8].
        codes: uint16 [n, 32].
        moves: uint8 [n, 16].
        steps: uint8 [n, 16].
        units: float32 [n]; one stays as it is where no weight counts.
    """
    for n in range(rows.shape[0]):
        sum_qx = sum_q2 = ZERO
        for k in range(32):
            times = F32(2 * steps[n, k // 2] + 1)
            move = -_MOVE if moves[n, k // 2] >> (1 - k % 2) & 1 else _MOVE
            for i in range(8):
                q, w = (F32(levels[codes[n, k], i]) - ONE + move) * times, weights[n, 8 * k + i]
                sum_qx += w * q * rows[n, 8 * k + i]
                sum_q2 += w * q * q
        if sum_q2 > ZERO:
            units[n] = sum_qx / sum_q2
