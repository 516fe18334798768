"""The formats with three levels whose groups of weights are points of a grid (IQ1_S, IQ1_M), in numpy operations.

Equal to ggml's ``quantize_iq1_s`` and ``quantize_iq1_m``, byte for byte, where the C library's qsort is stable.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from quantkit.kernels.arithmetic import Bytes, Floats, Integers, half_bytes, quiet
from quantkit.kernels.formats import SUPER_BLOCK, SplitFormat
from quantkit.kernels.grid_layout import PACKERS, Codes, Parts, store_split_scales
from quantkit.kernels.grids import grid_of
from quantkit.kernels.reference.arithmetic import ordered_sum
from quantkit.kernels.reference.grid import padded, weigh
from quantkit.kernels.searches import LEVEL_MOVE

_Bools = npt.NDArray[np.bool_]
_UP, _DOWN = (np.array([-1, 0, 1], dtype=np.float32) + np.float32(move) for move in (LEVEL_MOVE, -LEVEL_MOVE))

# Levels have their signs, and a block of zeros has a code.
_NEITHER = np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.bool_)


def encode_split(form: SplitFormat, rows: Floats, importance: Floats | None = None) -> Bytes:
    """Encode rows.

    Args:
        form: the format.
        rows: float32, columns a multiple of 256.
        importance: float32, shape [columns], or None.

    Returns:
        uint8, shape [super-blocks, bytes per super-block].
    """
    block, parts, count = form.shape.block, form.search.parts, rows.size // SUPER_BLOCK
    with quiet():
        values, weights = rows.reshape(-1, block), weigh(rows, importance).reshape(-1, block)
        levels, scales, down = _search(form, values, weights)
        empty = (np.abs(values).max(axis=1) < np.float32(form.nothing)) | (levels[:, 0] < 0)
        below = (scales < 0)[:, None]
        levels, scales, down = np.where(below, 2 - levels, levels), np.abs(scales), down ^ below
        codes, scales = _look_up(form, values, weights, np.maximum(levels, 0), scales, down)
        scales[empty], codes[empty], down[empty] = 0, 0, False
        unit, steps = store_split_scales(scales.reshape(count, -1))
        some = scales.reshape(count, -1).max(axis=1) > 0
        if form.fits_unit:
            q = _values(form, codes, down) * (2 * steps.reshape(-1, 1) + 1).astype(np.float32)
            sum_qx, sum_q2 = (sums.reshape(count, -1) for sums in (weights * q * values, weights * q * q))
            sum_qx, sum_q2 = ordered_sum(sum_qx), ordered_sum(sum_q2)
            unit = np.where(sum_q2 > 0, sum_qx / sum_q2, unit)
        unit = np.where(some, unit * np.float32(form.factor), np.float32(0))
    moves = down.reshape(count, -1, parts) & some[:, None, None]
    stored = steps | np.packbits(moves[:, :, ::-1], axis=2, bitorder="little")[:, :, 0] << np.uint8(3)
    return PACKERS[form.type](Parts(half_bytes(unit), stored, codes.reshape(count, -1), *_NEITHER))


def _search(form: SplitFormat, values: Floats, weights: Floats) -> tuple[Integers, Floats, _Bools]:
    """The best way to split the sorted weights of a block.

    Returns:
        Levels, int32 [blocks, block], -1 where no split counts; scales, float32 [blocks]; and whether the levels of
        each part are moved down, bool [blocks, parts].
    """
    count = len(values)
    order = np.argsort(values, axis=1, kind="stable").astype(np.int32)
    ranks = np.argsort(order, axis=1)
    scale, score = np.zeros(count, dtype=np.float32), np.full(count, np.finfo(np.float32).min)
    places, down = np.full((2, count), -1), np.zeros((count, form.search.parts), dtype=np.bool_)
    trials = _one_part if form.search.parts == 1 else _two_parts
    for first, second, moves, sum_qx, sum_q2 in trials(order, values, weights):
        better = (sum_q2 > 0) & (sum_qx * sum_qx > score * sum_q2)
        scale = np.where(better, sum_qx / sum_q2, scale)
        score = np.where(better, scale * sum_qx, score)
        places[:, better], down[better] = [[first], [second]], moves
    levels = (ranks >= places[0, :, None]).astype(np.int32) + (ranks >= places[1, :, None])
    return np.where(places[0, :, None] < 0, -1, levels).astype(np.int32), scale, down


_Trials = Iterator[tuple[int, int, tuple[bool, ...], Floats, Floats]]


def _one_part(order: Integers, values: Floats, weights: Floats) -> _Trials:
    """Where the next level begins, twice; whether levels are moved down; the sums of w x q and of w q q, [blocks]."""
    x, w = _sums_below(order, weights * values), _sums_below(order, weights)
    last = len(x) - 1
    for first, second in itertools.combinations_with_replacement(range(last + 1), 2):
        ends = ((0, first), (first, second), (second, last))
        for levels in (_UP, _DOWN):
            qx = [(x[end] - x[begin]) * q for (begin, end), q in zip(ends, levels, strict=True)]
            q2 = [(w[end] - w[begin]) * q * q for (begin, end), q in zip(ends, levels, strict=True)]
            yield first, second, (levels is _DOWN,), qx[0] + qx[1] + qx[2], q2[0] + q2[1] + q2[2]


def _two_parts(order: Integers, values: Floats, weights: Floats) -> _Trials:
    """The same, where each half of a block has sums of its own: what the highest level gives, less what is below."""
    first_half = order < order.shape[1] // 2
    halves = [(first_half, _UP), (first_half, _DOWN), (~first_half, _UP), (~first_half, _DOWN)]
    tables = []
    for here, levels in halves:
        x, w = (_sums_below(order, of, here) for of in (weights * values, weights))
        squares = levels * levels
        start = w[-1] * levels[2] * levels[2] + w * (squares[0] - squares[1])
        tables.append((x, x[-1] * levels[2], start, w * (squares[1] - squares[2])))
    for first, second in itertools.combinations_with_replacement(range(order.shape[1] + 1), 2):
        qx = [total - (x[first] + x[second]) for x, total, _, _ in tables]
        q2 = [start[first] + rest[second] for _, _, start, rest in tables]
        for moves in itertools.product((False, True), repeat=2):
            a, b = moves[0], 2 + moves[1]
            yield first, second, moves, qx[a] + qx[b], q2[a] + q2[b]


def _sums_below(order: Integers, values: Floats, here: _Bools | None = None) -> Floats:
    """The sum of what is before each place of the order, and *here*, float32 [places + 1, blocks]."""
    taken = np.take_along_axis(values, order, axis=1)
    taken = taken if here is None else np.where(here, taken, np.float32(0))
    sums = np.zeros((order.shape[1] + 1, len(order)), dtype=np.float32)
    for place in range(order.shape[1]):
        sums[place + 1] = sums[place] + taken[:, place]
    return sums


def _look_up(
    form: SplitFormat, values: Floats, weights: Floats, levels: Integers, scales: Floats, down: _Bools
) -> tuple[Codes, Floats]:
    """The code of each group, uint16 [blocks, groups], and the scales, which fit these if a group was off the grid."""
    shape, grid = form.shape, grid_of(form.type)
    groups = shape.block // shape.group
    numbers = levels.reshape(-1, shape.group) @ shape.levels ** np.arange(shape.group)
    codes = grid.codes[numbers]
    off = np.flatnonzero(codes < 0)
    candidates = padded(form.type)[numbers[off]]
    move = _moves(form, down).reshape(-1, shape.group)[off, :1, None]
    q = grid.points[candidates].astype(np.float32) - np.float32(1) + move
    x, w = (array.reshape(-1, 1, shape.group)[off] for array in (values, weights))
    errors = scales.repeat(groups)[off][:, None, None] * q - x
    squares = ordered_sum((w * errors * errors).reshape(-1, shape.group)).reshape(candidates.shape)
    squares[candidates < 0] = np.inf
    codes[off] = candidates[np.arange(off.size), squares.argmin(axis=1)]  # of equal ones the first
    found = codes.reshape(-1, groups).astype(np.uint16)
    values_of = _values(form, found, down)
    sum_qx, sum_q2 = ordered_sum(weights * values_of * values), ordered_sum(weights * values_of * values_of)
    fits = (grid.codes[numbers] < 0).reshape(-1, groups).any(axis=1) & (sum_qx > 0) & (sum_q2 > 0)
    return found, np.where(fits, sum_qx / sum_q2, scales)


def _values(form: SplitFormat, codes: Codes, down: _Bools) -> Floats:
    """The values of codes as levels that are moved, float32 [blocks, block]."""
    points = grid_of(form.type).points[codes].reshape(len(codes), -1)
    values: Floats = points.astype(np.float32) - np.float32(1) + _moves(form, down)
    return values


def _moves(form: SplitFormat, down: _Bools) -> Floats:
    """How far the level of each weight is moved, float32 [blocks, block]."""
    move = np.float32(LEVEL_MOVE)
    return np.where(down, -move, move).repeat(form.shape.block // form.search.parts, axis=1)
