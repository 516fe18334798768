"""C's arithmetic in tensor operations, and where it ends."""

from __future__ import annotations

import torch

_SHIFT = 12582912.0  # 1.5 * 2**23: adding it leaves no room for a fraction
# Between these magnitudes no step of any encoder overflows or divides by nothing.
SMALLEST, LARGEST = 1e-25, 65504.0


def decided(rows: torch.Tensor) -> torch.Tensor:
    """Whether arithmetic alone decides how these values are encoded.

    Outside of this range one over a scale may be infinite, and what C makes of the result differs between processors;
    such rows are for libggml itself. Every float16 is within.

    Args:
        rows: finite; any shape, floating type and device.

    Returns:
        A bool without dimensions, on the device of the rows.
    """
    if rows.dtype is torch.float16 or not rows.numel():
        return torch.ones((), dtype=torch.bool, device=rows.device)
    sizes = rows.abs()
    return ((sizes >= SMALLEST) | (sizes == 0)).all() & (sizes.amax() <= LARGEST)


def divide(value: float, by: torch.Tensor) -> torch.Tensor:
    """``value / by`` with one rounding; a number over a tensor is a reciprocal and a product to torch."""
    return torch.full_like(by, value) / by


def quotient(values: torch.Tensor, by: float) -> torch.Tensor:
    """``values / by`` with one rounding; on a CUDA device a tensor over a number is a product with its reciprocal."""
    return values / torch.full_like(values, by)


def root(values: torch.Tensor) -> torch.Tensor:
    """Square roots with one rounding.

    Torch's own on a processor is MKL's, an ulp off for a fifth of all numbers. Through float64 the result is the right
    one: no square root of a float32 is that close to the middle of two others.
    """
    return values.double().sqrt().float()


def nearest_int(values: torch.Tensor) -> torch.Tensor:
    """ggml's ``nearest_int``, int32: halves to even, and what its bits become where the number is too large."""
    return ((values + _SHIFT).view(torch.int32) & 0x007FFFFF) - 0x00400000


def ordered_sum(values: torch.Tensor) -> torch.Tensor:
    """Row sums, one column after the other."""
    total = values[:, 0].clone()
    for column in range(1, values.shape[1]):
        total += values[:, column]
    return total


def first_largest(blocks: torch.Tensor) -> torch.Tensor:
    """The first value of the largest magnitude in each block, with its sign; +0 for a block of zeros.

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
    """float16 little endian, uint8 of shape [n, 2]."""
    return values.half()[:, None].view(torch.uint8)
