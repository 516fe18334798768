"""Q4_0: blocks of 32 weights as a float16 scale and 32 levels of four bits.

ggml's reference (``quantize_row_q4_0_ref``): ``d = max / -8``, where max is the first value of the largest magnitude
with its sign, ``q = min(15, int(x * (1 / d) + 8.5))``. An importance matrix leads to another algorithm, which is left
to ggml.
"""

from __future__ import annotations

import torch

from quantkit.kernels.arithmetic import first_largest
from quantkit.kernels.scratch import Scratch

BLOCK, BLOCK_NBYTES = 32, 18

_scratch = Scratch(BLOCK, torch.int8)


def encode(rows: torch.Tensor) -> torch.Tensor | None:
    """Encode rows as Q4_0.

    Args:
        rows: float32 on the CPU, contiguous, a multiple of 32 elements.

    Returns:
        uint8, shape [blocks, 18]; None for values so small that ``1 / d`` overflows, where the reference's result
        is the processor's and not arithmetic's.
    """
    blocks = rows.reshape(-1, BLOCK)
    scaled, _, levels = _scratch.fit(blocks.shape[0])
    d = first_largest(blocks) / -8
    inverse = torch.where(d == 0, torch.zeros_like(d), torch.reciprocal(d))
    if not torch.isfinite(inverse).all():
        return None
    torch.mul(blocks, inverse[:, None], out=scaled)
    levels.copy_(scaled.add_(8.5))  # the conversion truncates; the product is rounded before the sum, as in C
    levels.clamp_(max=15)
    out = torch.empty(blocks.shape[0], BLOCK_NBYTES, dtype=torch.uint8)
    out[:, :2] = d.half()[:, None].view(torch.uint8)
    # Eight levels a word; each is below 16, so a shift by four stays within its byte.
    words = levels.view(torch.int64)
    out[:, 2:] = torch.bitwise_or(words[:, :2], words[:, 2:] << 4).view(torch.uint8)
    return out
