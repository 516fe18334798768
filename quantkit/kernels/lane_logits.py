"""Log-probabilities as steps, and the divergence from them, compiled by numba: see ``reference/logits``.

Loops are written so that LLVM makes vector instructions of them without changing the order of a sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.kernels import logit_steps as spec
from quantkit.kernels.lane_common import Bytes, Floats, compiled, inlined, nearest_int

F32 = np.float32
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int32]
Steps = npt.NDArray[np.uint16]

_LONG_GAP = spec.LONG_GAP
_DENSE, _BITMAP, _GAPS = spec.DENSE, spec.BITMAP, spec.GAPS
_RANGE, _FLOOR, _LEVELS = spec.RANGE, spec.FLOOR, spec.LEVELS
_LEAST, _LOG2E, _LN2_HIGH, _LN2_LOW = spec.LEAST, spec.LOG2E, spec.LN2_HIGH, spec.LN2_LOW
_C0, _C1, _C2, _C3, _C4, _C5 = spec.COEFFICIENTS
_SHIFT, _ONE, _ZERO = spec.SHIFT, spec.ONE, spec.ZERO
# The bits of infinity and of its negative.
_INFINITE, _NEGATIVE = np.int32(0x7F800000), np.int32(-0x800000)


@inlined
def _exponential(x: F32) -> F32:
    low = x if x > _LEAST else _LEAST
    n = (low * _LOG2E + _SHIFT) - _SHIFT
    r = (low - n * _LN2_HIGH) - n * _LN2_LOW
    value = ((((_C0 * r + _C1) * r + _C2) * r + _C3) * r + _C4) * r + _C5
    value = (value * (r * r) + r) + _ONE
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return value * power if x > _LEAST else _ZERO


@inlined
def _total(values: Floats, count: int) -> float:
    """The sum of the first values, as ``lane_sum``: eight sums do not wait for each other."""
    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(0, count - count % 8, 8):
        a += np.float64(values[i])
        b += np.float64(values[i + 1])
        c += np.float64(values[i + 2])
        d += np.float64(values[i + 3])
        e += np.float64(values[i + 4])
        f += np.float64(values[i + 5])
        g += np.float64(values[i + 6])
        h += np.float64(values[i + 7])
    rest, at = count % 8, count - count % 8
    a += np.float64(values[at]) if rest > 0 else 0.0
    b += np.float64(values[at + 1]) if rest > 1 else 0.0
    c += np.float64(values[at + 2]) if rest > 2 else 0.0
    d += np.float64(values[at + 3]) if rest > 3 else 0.0
    e += np.float64(values[at + 4]) if rest > 4 else 0.0
    f += np.float64(values[at + 5]) if rest > 5 else 0.0
    g += np.float64(values[at + 6]) if rest > 6 else 0.0
    return ((((((a + b) + c) + d) + e) + f) + g) + h


@inlined
def _ordered(bits: np.int32) -> np.int32:
    """A float's bits as an integer in the same order: LLVM finds the largest of those with vectors."""
    return np.int32(bits ^ np.int32((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@inlined
def _extremes(bits: Integers) -> tuple[F32, F32, Any]:
    """The largest and the least of a row of floats, given as bits, and whether one is NaN."""
    largest, least = np.int32(-0x80000000), np.int32(0x7FFFFFFF)
    for i in range(bits.size):
        value = _ordered(bits[i])
        largest = max(largest, value)
        least = min(least, value)
    bad = (largest > _ordered(_INFINITE)) | (least < _ordered(_NEGATIVE))
    return np.int32(_ordered(largest)).view(np.float32), np.int32(_ordered(least)).view(np.float32), bad


@inlined
def _log_sum(row: Floats, largest: F32, terms: Floats) -> F32:
    for i in range(row.size):
        terms[i] = _exponential(row[i] - largest)
    total = _total(terms, row.size)
    return F32(math.log(total)) if total > 0 else F32(np.nan)


@inlined
def _first(row: Floats, largest: F32) -> int:
    for i in range(row.size):
        if row[i] == largest:
            return i
    return -1


@inlined
def _least_kept(scale: F32, floor: F32) -> int:
    """The first step whose log-probability counts; one more than the last if none does."""
    low, high = 0, 65536
    while low < high:
        middle = (low + high) // 2
        if scale * F32(middle) + floor > _FLOOR:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def _gap_bytes(steps: Steps, least: int) -> int:
    count, before = 0, -1
    for i in range(steps.size):
        if steps[i] >= least:
            count += 1
            if i - before > _LONG_GAP:
                count += (i - before - 1) // _LONG_GAP
            before = i
    return count + count % 2


@inlined
def _write_bits(steps: Steps, least: int, out: Bytes, at: int) -> None:
    whole = steps.size // 8 * 8
    for start in range(0, whole, 8):
        flags = 0
        for bit in range(8):
            flags |= int(steps[start + bit] >= least) << bit
        out[at + start // 8] = np.uint8(flags)
    if whole < steps.size:
        flags = 0
        for bit in range(steps.size - whole):
            flags |= int(steps[whole + bit] >= least) << bit
        out[at + whole // 8] = np.uint8(flags)


@inlined
def _write_gaps(steps: Steps, least: int, out: Bytes, at: int) -> None:
    before = -1
    for i in range(steps.size):
        if steps[i] >= least:
            rest = i - before - 1
            before = i
            while rest >= _LONG_GAP:
                out[at] = np.uint8(_LONG_GAP)
                at += 1
                rest -= _LONG_GAP
            out[at] = np.uint8(rest)
            at += 1


@compiled
def pack(
    logits: Floats,
    bits: Integers,
    tokens: Integers,
    terms: Floats,
    steps: Steps,
    scales: Floats,
    floors: Floats,
    places: Integers,
    out: Bytes,
    words: Steps,
) -> int:
    """Pack positions.

    Args:
        logits: float32 [n, V].
        bits: the same memory as int32.
        tokens: int32 [n].
        terms, steps: float32 [V + 8] and uint16 [V], memory.
        scales, floors, places: as in ``Packed``, written.
        out: uint8 [2 * n * V + 2], the payloads one after another.
        words: the same memory as uint16.

    Returns:
        The bytes written.
    """
    size, at = logits.shape[1], 0
    for number in range(logits.shape[0]):
        row = logits[number]
        largest, lowest, bad = _extremes(bits[number])
        log_sum = F32(np.nan) if bad else _log_sum(row, largest, terms)
        lowest = lowest if lowest > largest - _RANGE else largest - _RANGE
        floor, scale = F32(lowest - largest) - log_sum, F32(largest - lowest) / _LEVELS
        inverse = _ONE / scale if scale != _ZERO else _ZERO
        highest = np.uint16(0)
        for i in range(size):
            step = np.uint16(nearest_int(inverse * (row[i] - lowest))) if row[i] > lowest else np.uint16(0)
            steps[i] = step
            highest = max(highest, step)
        top = 0
        while steps[top] != highest:
            top += 1
        least, kept = _least_kept(scale, floor), 0
        for i in range(size):
            kept += int(steps[i] >= least)
        flags = (size + 7) // 8
        flags += flags % 2
        gaps = _gap_bytes(steps, least) if kept < flags else flags
        first, layout = (flags, _BITMAP) if flags <= gaps else (gaps, _GAPS)
        nbytes = first + 2 * kept
        if 2 * size <= nbytes:
            layout, nbytes = _DENSE, 2 * size
            words[at // 2 : at // 2 + size] = steps
        else:
            out[at + first - 1] = np.uint8(_LONG_GAP if layout == _GAPS else 0)
            if layout == _BITMAP:
                _write_bits(steps, least, out, at)
            else:
                _write_gaps(steps, least, out, at)
            there = (at + first) // 2
            for i in range(size):
                words[there] = steps[i]
                there += int(steps[i] >= least)
        scales[number], floors[number] = scale, floor
        places[number, 0], places[number, 1], places[number, 2] = top, kept, nbytes
        places[number, 3], places[number, 4] = np.int32(steps[tokens[number]]), layout
        at += nbytes
    return at


@inlined
def _unpack(
    payload: Bytes, words: Steps, start: int, kept: int, nbytes: int, layout: int, least: int, index: Integers
) -> None:
    """Write the kept tokens to *index*."""
    count = 0
    if layout == _DENSE:
        for i in range(nbytes // 2):
            index[count] = np.int32(i)
            count += int(words[start // 2 + i] >= least)
        return
    before = nbytes - 2 * kept
    if layout == _BITMAP:
        for i in range(before):
            flags = int(payload[start + i])
            for bit in range(8):
                index[count] = np.int32(8 * i + bit)
                count += (flags >> bit) & 1
        return
    token = -1
    for i in range(before):
        gap = int(payload[start + i])
        token += gap
        if gap != _LONG_GAP:
            token += 1
            index[count] = np.int32(token)
            count += 1


@compiled
def compare(
    logits: Floats,
    bits: Integers,
    tokens: Integers,
    scales: Floats,
    floors: Floats,
    places: Integers,
    payload: Bytes,
    words: Steps,
    index: Integers,
    terms: Floats,
    losses: Floats,
    bases: Floats,
    divergences: Doubles,
    changes: Floats,
    same: npt.NDArray[np.bool_],
) -> None:
    """Compare positions with those of the reference.

    Args:
        logits: float32 [n, V].
        bits: the same memory as int32.
        tokens: int32 [n].
        scales, floors, places, payload: as in ``Packed``.
        words: the payload as uint16.
        index, terms: int32 [V + 16] and float32 [V + 8], memory.
        losses, bases, divergences, changes, same: as in ``Compared``, written.
    """
    start = 0
    for number in range(logits.shape[0]):
        row, scale, floor = logits[number], scales[number], floors[number]
        kept, nbytes, layout = places[number, 1], places[number, 2], places[number, 4]
        largest, _, bad = _extremes(bits[number])
        log_sum = F32(np.nan) if bad else _log_sum(row, largest, terms)
        whole = largest + log_sum
        _unpack(payload, words, start, kept, nbytes, layout, _least_kept(scale, floor), index)
        at = (start + nbytes) // 2 - kept
        if layout == _DENSE:  # put the steps that count one after another, as the other layouts have them
            at = start // 2
            for i in range(kept):
                words[at + i] = words[at + index[i]]
        for i in range(kept):
            likely = scale * F32(words[at + i]) + floor
            terms[i] = _exponential(likely) * ((likely - row[index[i]]) + whole)
        loss, base = whole - row[tokens[number]], -(scale * F32(places[number, 3]) + floor)
        losses[number], bases[number], divergences[number] = loss, base, _total(terms, kept)
        changes[number] = _exponential(-loss) - _exponential(-base)
        same[number] = _first(row, largest) == places[number, 0]
        start += nbytes
