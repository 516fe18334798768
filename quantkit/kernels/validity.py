"""Whether encoded blocks hold no NaN and no infinity, on any device: what ``ggml_validate_row_data`` looks at.

Sound float16 values cannot give such a block; values of a wider type can.
"""

from __future__ import annotations

import torch

from quantkit.ggml.types import GGMLType

# Where in a block its float16 numbers are, in bytes (ggml-common.h).
_HALVES: dict[GGMLType, tuple[int, ...]] = {
    GGMLType.Q4_0: (0,),
    GGMLType.Q4_1: (0, 2),
    GGMLType.Q5_0: (0,),
    GGMLType.Q5_1: (0, 2),
    GGMLType.Q8_0: (0,),
    GGMLType.Q2_K: (80, 82),
    GGMLType.Q3_K: (108,),
    GGMLType.Q4_K: (0, 2),
    GGMLType.Q5_K: (0, 2),
    GGMLType.Q6_K: (208,),
}
_EXPONENT = 0x7C00


def all_finite(kind: GGMLType, blocks: torch.Tensor) -> bool:
    """Whether every scale and minimum of encoded blocks is a number.

    Args:
        kind: one of the formats that are encoded on devices.
        blocks: uint8, shape [blocks, bytes of a block].
    """
    words = blocks.view(torch.int16)
    first, *more = (offset // 2 for offset in _HALVES[kind])
    scales = words[:, first : first + 1 + len(more)]
    return not bool(((scales & _EXPONENT) == _EXPONENT).any())
