"""A range of rows merged, rounded and encoded for every output in one compiled call.

Strips of rows go through all steps while they are in the processor's cache, and a worker takes Python's lock once a
range: with many workers most of their time went into waiting for it when every step of a strip was a call of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantkit.checkpoint.dtypes import BF16, TYPE_OF, Array, Floats
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lanes
from quantkit.kernels.arithmetic import Bytes
from quantkit.kernels.encode import WORTH_NUMBA
from quantkit.kernels.formats import ONE_CALL
from quantkit.kernels.kept import Kept
from quantkit.kernels.low_rank import Pair
from quantkit.kernels.rounding import OVERFLOW


def has_one_call(stored: Array, outtype: GGMLType, kinds: Sequence[GGMLType]) -> bool:
    """Whether these rows and types have such a call, and it is worth importing numba."""
    known = outtype in OVERFLOW and {*kinds} <= ONE_CALL | {outtype} and len({*kinds}) == len(kinds)
    return known and stored.ndim == 2 and stored.size >= WORTH_NUMBA and lanes.available()


def encode_in_one_call(
    stored: Array,
    pairs: Sequence[Pair],
    outtype: GGMLType,
    kinds: Sequence[GGMLType],
    outs: Sequence[Bytes],
    kept: Kept,
) -> float | None:
    """Add the products of *pairs* to rows, round the sums once, and encode them.

    Args:
        stored: the rows, shape [n, columns].
        pairs: float32 factors, left [n, r] and right [r, columns], added in this order.
        outtype: what the rows are rounded to.
        kinds: what is wanted: the outtype, or formats that importances do not affect.
        outs: where it goes, uint8 [n, bytes of a row], contiguous; of arbitrary content if a value is too large for the
            outtype.
        kept: memory to work in.

    Returns:
        The largest magnitude before rounding, NaN if a value is NaN; None if arithmetic alone does not decide how the
        values are encoded.
    """
    from quantkit.kernels import lane_range

    formats = tuple(sorted({*kinds} - {outtype}))
    by_kind = dict(zip(kinds, outs, strict=True))
    run = lane_range.carry(TYPE_OF[stored.dtype], outtype, formats, outtype in by_kind)
    floats = kept.array("floats", (lane_range.strip_rows(stored.shape[1]) * stored.shape[1],), np.dtype(np.float32))
    rounded = by_kind[outtype] if outtype in by_kind else kept.array("bits", (floats.nbytes,), np.dtype(np.uint8))
    bits = rounded.reshape(-1).view(np.float32 if outtype is GGMLType.F32 else np.uint16)
    blocks = tuple(by_kind[kind].reshape(-1, kind.block_nbytes) for kind in formats)
    left, right = factors(pairs, stored.shape)
    word, outside = run(words(np.ascontiguousarray(stored)), left, right, floats, bits, blocks or (rounded,))
    return None if outside else float(np.array(word, dtype=np.int32).view(np.float32))


def factors(pairs: Sequence[Pair], shape: tuple[int, ...]) -> Pair:
    """All products as one: left, float32 [n, r], and right, float32 [r, columns], contiguous."""
    lefts, rights = ([pair[side] for pair in pairs] for side in (0, 1))
    if len(pairs) == 1:
        return np.ascontiguousarray(lefts[0]), np.ascontiguousarray(rights[0])
    left = np.concatenate([np.empty((shape[0], 0), np.float32), *lefts], axis=1)
    right: Floats = np.concatenate([np.empty((0, shape[1]), np.float32), *rights])
    return left, right


def words(values: Array) -> Array:
    """What compiled code reads and writes: 16 bits as integers."""
    return values.view(np.uint16) if values.dtype in (BF16, np.float16) else values
