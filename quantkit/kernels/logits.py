"""A chunk's logits kept as a reference, or compared with one: compiled if numba is installed, else in numpy.

Both give the same bits; see :mod:`quantkit.kernels.logit_steps` for what is computed. Positions are independent,
so threads share a chunk, and its result does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from quantkit.kernels import lanes
from quantkit.kernels import logit_steps as reference
from quantkit.kernels.arithmetic import Floats
from quantkit.kernels.logit_steps import Compared, Packed

_SLICE = 16  # positions that a thread takes at a time
Tokens = npt.NDArray[np.int32]
_Part = TypeVar("_Part")


def pack(logits: Floats, tokens: Tokens, threads: int = 1) -> Packed:
    """Keep a reference's log-probabilities: of each position those above -16, as steps.

    Args:
        logits: float32 [n, V], contiguous.
        tokens: int32 [n]: the token that follows each position.
        threads: threads that share the positions.

    Returns:
        The positions; with NaN as floor where a logit is NaN.
    """
    run = _pack if lanes.available() else reference.pack
    parts = _each_slice(lambda start, stop: run(logits[start:stop], tokens[start:stop]), len(logits), threads)
    return Packed(
        np.concatenate([part.scale for part in parts]),
        np.concatenate([part.floor for part in parts]),
        np.concatenate([part.places for part in parts]),
        np.concatenate([part.payload for part in parts]),
    )


def compare(logits: Floats, tokens: Tokens, packed: Packed, threads: int = 1) -> Compared:
    """Compare logits with a reference's positions.

    Args:
        logits, tokens, threads: as in :func:`pack`.
        packed: the same positions of the reference, with the same vocabulary.

    Returns:
        The differences; with NaN as loss where a logit is NaN.
    """
    run = _compare if lanes.available() else reference.compare
    starts = np.concatenate(([0], np.cumsum(packed.places[:, 2], dtype=np.int64)))

    def part(start: int, stop: int) -> Compared:
        own = Packed(
            packed.scale[start:stop],
            packed.floor[start:stop],
            packed.places[start:stop],
            packed.payload[starts[start] : starts[stop]],
        )
        return run(logits[start:stop], tokens[start:stop], own)

    return join(_each_slice(part, len(logits), threads))


def join(parts: list[Compared]) -> Compared:
    """Positions one after another."""
    return Compared(
        np.concatenate([part.loss for part in parts]),
        np.concatenate([part.reference_loss for part in parts]),
        np.concatenate([part.divergence for part in parts]),
        np.concatenate([part.change for part in parts]),
        np.concatenate([part.same for part in parts]),
    )


def _each_slice(work: Callable[[int, int], _Part], count: int, threads: int) -> list[_Part]:
    starts = range(0, count, _SLICE)
    if threads == 1:
        return [work(start, min(start + _SLICE, count)) for start in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda start: work(start, min(start + _SLICE, count)), starts))


def _pack(logits: Floats, tokens: Tokens) -> Packed:
    from quantkit.kernels import lane_logits  # importing numba takes half a second

    count, size = logits.shape
    scale, floor = (np.empty(count, dtype=np.float32) for _ in range(2))
    places = np.empty((count, 5), dtype=np.int32)
    words = np.empty(count * size + 1, dtype=np.uint16)
    out, terms, steps = words.view(np.uint8), np.empty(size + 8, dtype=np.float32), np.empty(size, dtype=np.uint16)
    bits = logits.view(np.int32)
    nbytes = lane_logits.pack(logits, bits, tokens, terms, steps, scale, floor, places, out, words)
    return Packed(scale, floor, places, out[:nbytes].copy())


def _compare(logits: Floats, tokens: Tokens, packed: Packed) -> Compared:
    from quantkit.kernels import lane_logits

    count, size = logits.shape
    loss, base, change = (np.empty(count, dtype=np.float32) for _ in range(3))
    divergence, same = np.empty(count, dtype=np.float64), np.empty(count, dtype=np.bool_)
    payload = packed.payload.copy()  # the steps of a dense position are moved in it
    index, terms = np.empty(size + 16, dtype=np.int32), np.empty(size + 8, dtype=np.float32)
    lane_logits.compare(
        logits, logits.view(np.int32), tokens,
        packed.scale, packed.floor, packed.places, payload, payload.view(np.uint16), index, terms,
        loss, base, divergence, change, same,
    )  # fmt: skip
    return Compared(loss, base, divergence, change, same)
