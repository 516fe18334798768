"""C's float32 arithmetic in tensor operations, and the range of values for which it decides the encoding."""

from __future__ import annotations

import torch

_SHIFT = 12582912.0  # 1.5 * 2**23: adding it leaves no room for a fraction
# Between these magnitudes no step of any encoder overflows or divides by zero.
SMALLEST, LARGEST = 1e-25, 65504.0


def decided(rows: torch.Tensor) -> torch.Tensor:
    """Whether arithmetic alone decides how these values are encoded.

    Outside the range the reciprocal of a scale may be infinite, and what C makes of the result differs between
    processors: leave such rows to libggml. Every float16 value is inside.

    Args:
        rows: finite values, of any shape, floating dtype and device.

    Returns:
        bool, shape [], on the device of the rows.
    """
    if rows.dtype is torch.float16 or not rows.numel():
        return torch.ones((), dtype=torch.bool, device=rows.device)
    sizes = rows.abs()
    return ((sizes >= SMALLEST) | (sizes == 0)).all() & (sizes.amax() <= LARGEST)


def divide(value: float, by: torch.Tensor) -> torch.Tensor:
    """``value / by``, rounded once; torch would multiply by a reciprocal, which rounds twice."""
    return torch.full_like(by, value) / by


def quotient(values: torch.Tensor, by: float) -> torch.Tensor:
    """``values / by``, rounded once; torch on CUDA would multiply by the reciprocal, which rounds twice."""
    return values / torch.full_like(values, by)


def nearest_int(values: torch.Tensor) -> torch.Tensor:
    """ggml's ``nearest_int``, int32: rounds halves to even, and wraps as ggml does where the magnitude is too large."""
    return ((values + _SHIFT).view(torch.int32) & 0x007FFFFF) - 0x00400000


def first_largest(blocks: torch.Tensor) -> torch.Tensor:
    """Find the first value of the largest magnitude in each block, with its sign; +0 for a block of zeros.

    Args:
        blocks: float32, shape [n, block].

    Returns:
        float32, shape [n].
    """
    high, low = torch.amax(blocks, dim=1), torch.amin(blocks, dim=1)
    largest = torch.where(high > -low, high, low)
    tied = torch.nonzero(high == -low)[:, 0]  # also all zeros, of either sign
    if tied.numel():
        some = blocks[tied]
        first = (some.abs() == high[tied, None]).to(torch.uint8).argmax(dim=1)
        values = some.gather(1, first[:, None])[:, 0]
        largest[tied] = torch.where(values == 0, torch.zeros_like(values), values)
    return largest


def half_bytes(values: torch.Tensor) -> torch.Tensor:
    """Convert float32 [n] to little-endian float16, as uint8 [n, 2]."""
    return values.half()[:, None].view(torch.uint8)
