"""Formats with one block of 32 weights and no search, as plain tensor operations on any device.

Held to ggml (``quantize_row_q4_0_ref`` and its like) byte for byte. With an importance matrix ggml has other algorithms
for all of these but Q8_0.
"""

from __future__ import annotations

import torch

from quantkit.kernels.arithmetic import first_largest, half_bytes, quotient

BLOCK = 32


def encode_q8_0(rows: torch.Tensor) -> torch.Tensor:
    """Q8_0: uint8, shape [blocks, 34], of float32 rows with a multiple of 32 weights."""
    x = rows.reshape(-1, BLOCK)
    d = quotient(x.abs().amax(1), 127)
    scaled = x * _inverse(d)[:, None]
    whole = scaled.trunc()
    # roundf: halves away from zero. Torch rounds them to even.
    levels = whole + torch.where((scaled - whole).abs() >= 0.5, scaled.sign(), torch.zeros_like(scaled))
    return torch.cat([half_bytes(d), levels.to(torch.int8).view(torch.uint8)], dim=1)


def encode_symmetric(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """Q4_0 and Q5_0: uint8, shape [blocks, 18] or [blocks, 22], of float32 rows with a multiple of 32 weights."""
    x, half = rows.reshape(-1, BLOCK), 1 << bits - 1
    d = first_largest(x) / -half
    levels = (x * _inverse(d)[:, None] + (half + 0.5)).to(torch.int8).clamp(max=2 * half - 1)
    return torch.cat([half_bytes(d), _pack(levels, bits)], dim=1)


def encode_affine(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """Q4_1 and Q5_1: uint8, shape [blocks, 20] or [blocks, 24], of float32 rows with a multiple of 32 weights."""
    x, top = rows.reshape(-1, BLOCK), (1 << bits) - 1
    low = first_smallest(x)
    d = quotient(x.amax(1) - low + 0.0, top)  # no -0 from zeros of either sign
    levels = ((x - low[:, None]) * _inverse(d)[:, None] + 0.5).to(torch.int8).clamp(max=top)
    return torch.cat([half_bytes(d), half_bytes(low), _pack(levels, bits)], dim=1)


def first_smallest(x: torch.Tensor) -> torch.Tensor:
    """The first smallest value of each row: of two zeros, whichever comes first."""
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
    """The fifth bits of a block as a word of 32, then the low four: those 16 apart together."""
    words = levels.view(torch.int64)
    low = words & 0x0F0F0F0F0F0F0F0F
    nibbles = (low[:, :2] | low[:, 2:] << 4).view(torch.uint8)
    if bits == 4:
        return nibbles
    # The product moves the lowest bit of each of eight bytes into the top byte, one beside the other.
    fifth = ((words >> 4 & 0x0101010101010101) * 0x0102040810204080 >> 56).to(torch.uint8)
    return torch.cat([fifth, nibbles], dim=1)
