"""Check that encoded blocks contain no NaN and no infinity, on any device, as ``ggml_validate_row_data`` does.

Finite float16 values cannot produce such a block; values of a wider type can.
"""

from __future__ import annotations

import torch

from quantkit.ggml.types import GGMLType
from quantkit.kernels.formats import FORMATS

_EXPONENT = 0x7C00


def all_finite(kind: GGMLType, blocks: torch.Tensor) -> bool:
    """Whether every scale and minimum of encoded blocks is finite.

    Args:
        kind: one of :data:`quantkit.kernels.formats.FORMATS`.
        blocks: uint8, shape [blocks, bytes per block].
    """
    words = blocks.view(torch.int16)
    first, *more = (offset // 2 for offset in FORMATS[kind].halves)
    scales = words[:, first : first + 1 + len(more)]
    return not bool(((scales & _EXPONENT) == _EXPONENT).any())
