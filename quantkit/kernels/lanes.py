"""K-quants, Q8_0 and Q4_0 on a processor, several times as fast as libggml, where numba (the extra ``fast``) is
installed.

The searches of K-quants are those of ``lane_affine.py`` and ``lane_symmetric.py``; what they find is stored and packed
as in the specification. The two formats without a search are in ``lane_blocks.py``.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from quantkit.ggml.types import GGMLType
from quantkit.kernels import affine, super_block, symmetric
from quantkit.kernels.arithmetic import LARGEST, SMALLEST

if TYPE_CHECKING:
    from quantkit.kernels.lane_blocks import Encode
    from quantkit.kernels.lane_common import Fit, Floats, Search

K_QUANTS = frozenset(super_block.FORMATS)
SUPPORTED = K_QUANTS | {GGMLType.Q8_0, GGMLType.Q4_0}


@dataclass(frozen=True)
class _Format:
    """A K-quant: its compiled functions, and the specification's search for levels, of sub-blocks."""

    search: Search
    fit: Fit
    levels: Callable[[torch.Tensor], torch.Tensor]


@cache
def available() -> bool:
    """Whether numba is installed, in a version that goes with the others here."""
    try:
        importlib.import_module("numba")
    except ImportError:
        return False
    return True


@cache
def _formats() -> dict[GGMLType, _Format]:
    # Numba takes half a second to import: not before it is needed.
    from quantkit.kernels import lane_affine, lane_common, lane_symmetric

    def by_affine(kind: affine.Affine, x: torch.Tensor) -> torch.Tensor:
        return affine.search(x, kind)[2]

    return {
        GGMLType.Q2_K: _Format(lane_affine.search_q2, lane_common.fit_q2, partial(by_affine, affine.Q2_K)),
        GGMLType.Q3_K: _Format(lane_symmetric.search_q3, lane_common.fit_q3, lambda x: symmetric.search_3(x)[1]),
        GGMLType.Q4_K: _Format(lane_affine.search_q4, lane_common.fit_q4, partial(by_affine, affine.Q4_K)),
        GGMLType.Q5_K: _Format(lane_affine.search_q5, lane_common.fit_q5, partial(by_affine, affine.Q5_K)),
        GGMLType.Q6_K: _Format(lane_symmetric.search_q6, lane_common.fit_q6, lambda x: symmetric.search_6(x)[1]),
    }


@cache
def _blocks() -> dict[GGMLType, Encode]:
    from quantkit.kernels import lane_blocks

    return {GGMLType.Q8_0: lane_blocks.encode_q8_0, GGMLType.Q4_0: lane_blocks.encode_q4_0}


def encode(kind: GGMLType, rows: torch.Tensor) -> torch.Tensor | None:
    """Encode rows.

    Args:
        kind: one of :data:`SUPPORTED`.
        rows: float32 on the CPU, contiguous, columns a multiple of the type's block.

    Returns:
        uint8, shape [blocks, bytes of one]; None for values whose encoding arithmetic alone does not decide.
    """
    flat = rows.numpy().reshape(-1)
    if not _decided(flat):
        return None
    if kind in K_QUANTS:
        return _encode_super_blocks(kind, rows, flat)
    blocks = flat.reshape(-1, kind.block)
    out = np.empty((blocks.shape[0], kind.block_nbytes), dtype=np.uint8)
    _blocks()[kind](blocks, blocks.view(np.int32), out)
    return torch.from_numpy(out)


def _encode_super_blocks(kind: GGMLType, rows: torch.Tensor, flat: Floats) -> torch.Tensor:
    form, compiled = super_block.FORMATS[kind], _formats()[kind]
    stored = form.store(*_search(compiled.search, flat, form.block))
    levels = torch.empty(rows.numel() // super_block.SUPER, super_block.SUPER, dtype=torch.uint8)
    compiled.fit(flat, stored.scales.numpy(), stored.lows.numpy(), levels.numpy().reshape(-1))
    # Where a scale became zero the search's levels stay. That is rare but for zeros, whose levels are zero.
    unscaled = torch.nonzero(stored.scales == 0)[:, 0]
    if unscaled.numel():
        blocks, left = levels.view(-1, form.block), rows.view(-1, form.block)[unscaled]
        blocks[unscaled] = 0
        some = left.any(1)
        if some.any():
            blocks[unscaled[some]] = compiled.levels(left[some]).to(torch.uint8)
    return form.pack(levels, stored.parts)


def _decided(flat: Floats) -> bool:
    """``arithmetic.decided`` for float32 on a processor, in a tenth of the time."""
    from quantkit.kernels import lane_common

    outside: int = lane_common.count_outside(flat, np.float32(SMALLEST), np.float32(LARGEST))
    return outside == 0


class _Scratch(threading.local):
    """What searches work in, for one thread."""

    def __init__(self) -> None:
        from quantkit.kernels import lane_common

        self.lanes = lane_common.LANES
        self.x, self.work = np.zeros(lane_common.X, dtype=np.float32), np.zeros(lane_common.WORK, dtype=np.float32)


@cache
def _scratch() -> _Scratch:
    return _Scratch()


def _search(search: Search, flat: Floats, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and minima of all sub-blocks; the last ones, which do not fill the lanes, among zeros."""
    scratch = _scratch()
    group = scratch.lanes * block
    whole = flat.size // group * group
    scales, lows = (np.empty(-(-flat.size // group) * scratch.lanes, dtype=np.float32) for _ in range(2))
    search(flat[:whole], scratch.x, scratch.work, scales, lows)
    if whole < flat.size:
        rest = np.zeros(group, dtype=np.float32)
        rest[: flat.size - whole] = flat[whole:]
        done = whole // block
        search(rest, scratch.x, scratch.work, scales[done:], lows[done:])
    count = flat.size // block
    return torch.from_numpy(scales[:count]), torch.from_numpy(lows[:count])
