"""The formats with blocks of 32 weights and no search, in tensor operations on any device.

Equal to ggml's ``quantize_row_q4_0_ref`` and its siblings, byte for byte. With an importance matrix ggml uses other
algorithms for all of them except Q8_0.
"""

from __future__ import annotations

import torch

from quantkit.kernels.arithmetic import first_largest, half_bytes, quotient
from quantkit.kernels.formats import BlockFormat

_BLOCK = 32


def encode_blocks(form: BlockFormat, rows: torch.Tensor) -> torch.Tensor:
    """Encode rows.

    Args:
        form: the format.
        rows: float32, a multiple of 32 weights.

    Returns:
        uint8, shape [blocks, bytes per block].
    """
    x = rows.reshape(-1, _BLOCK)
    if form.bits == 8:
        return _encode_bytes(x)
    return _encode_symmetric(x, form.bits) if len(form.halves) == 1 else _encode_affine(x, form.bits)


def _encode_bytes(x: torch.Tensor) -> torch.Tensor:
    """Q8_0: a scale and 32 signed bytes."""
    d = quotient(x.abs().amax(1), 127)
    scaled = x * _inverse(d)[:, None]
    whole = scaled.trunc()
    # roundf: halves away from zero. Torch rounds them to even.
    levels = whole + torch.where((scaled - whole).abs() >= 0.5, scaled.sign(), torch.zeros_like(scaled))
    return torch.cat([half_bytes(d), levels.to(torch.int8).view(torch.uint8)], dim=1)


def _encode_symmetric(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Q4_0 and Q5_0: a scale, the fifth bits, and 16 bytes of low bits."""
    half = 1 << bits - 1
    d = first_largest(x) / -half
    levels = (x * _inverse(d)[:, None] + (half + 0.5)).to(torch.int8).clamp(max=2 * half - 1)
    return torch.cat([half_bytes(d), _pack(levels, bits)], dim=1)


def _encode_affine(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Q4_1 and Q5_1: a scale, a minimum, the fifth bits, and 16 bytes of low bits."""
    top = (1 << bits) - 1
    low = _first_smallest(x)
    d = quotient(x.amax(1) - low + 0.0, top)  # no -0 from zeros of either sign
    levels = ((x - low[:, None]) * _inverse(d)[:, None] + 0.5).to(torch.int8).clamp(max=top)
    return torch.cat([half_bytes(d), half_bytes(low), _pack(levels, bits)], dim=1)


def _first_smallest(x: torch.Tensor) -> torch.Tensor:
    """The first smallest value of each row; of zeros of both signs, the first."""
    low = x.amin(1)
    zeros = torch.nonzero(low == 0)[:, 0]
    if zeros.numel():
        some = x[zeros]
        first = (some == 0).to(torch.uint8).argmax(dim=1)
        low[zeros] = some.gather(1, first[:, None])[:, 0]
    return low


def _inverse(d: torch.Tensor) -> torch.Tensor:
    return torch.where(d == 0, torch.zeros_like(d), torch.reciprocal(d))


def _pack(levels: torch.Tensor, bits: int) -> torch.Tensor:
    """The fifth bits of a block as a 32-bit word, then the low four bits: levels 16 apart share a byte."""
    words = levels.view(torch.int64)
    low = words & 0x0F0F0F0F0F0F0F0F
    nibbles = (low[:, :2] | low[:, 2:] << 4).view(torch.uint8)
    if bits == 4:
        return nibbles
    # The product gathers the lowest bit of each of eight bytes in the top byte.
    fifth = ((words >> 4 & 0x0101010101010101) * 0x0102040810204080 >> 56).to(torch.uint8)
    return torch.cat([fifth, nibbles], dim=1)
