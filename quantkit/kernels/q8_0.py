"""Q8_0: blocks of 32 weights as a float16 scale and 32 signed bytes.

ggml's reference (``quantize_row_q8_0_ref``): ``d = amax / 127``, ``q = roundf(x * (1 / d))``. An importance matrix has
no influence on it. Three times as fast as the reference on one core, because these operations are vectorized.
"""

from __future__ import annotations

import torch

from quantkit.kernels.scratch import Scratch

BLOCK, BLOCK_NBYTES = 32, 34

# roundf() rounds halves away from zero. Adding the float just below one half, with the sign of x, and truncating does
# the same for every |x| < 2**23; adding one half itself would round 0.49999997 up to 1.
_BELOW_HALF = torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))


_scratch = Scratch(BLOCK, torch.int8)


def encode(rows: torch.Tensor) -> torch.Tensor | None:
    """Encode rows as Q8_0.

    Args:
        rows: float32 on the CPU, contiguous, a multiple of 32 elements.

    Returns:
        uint8, shape [blocks, 34]; None for values so small that ``1 / d`` overflows, where the reference's result
        is the processor's and not arithmetic's.
    """
    blocks = rows.reshape(-1, BLOCK)
    scaled, signs, levels = _scratch.fit(blocks.shape[0])
    d = torch.amax(torch.abs(blocks, out=scaled), dim=1) / 127
    inverse = torch.where(d == 0, d, torch.reciprocal(d))
    if not torch.isfinite(inverse).all():
        return None
    torch.mul(blocks, inverse[:, None], out=scaled)
    torch.copysign(_BELOW_HALF, scaled, out=signs)
    levels.copy_(scaled.add_(signs))  # the conversion truncates
    out = torch.empty(blocks.shape[0], BLOCK_NBYTES, dtype=torch.uint8)
    out[:, :2] = d.half()[:, None].view(torch.uint8)
    out[:, 2:] = levels.view(torch.uint8)
    return out
