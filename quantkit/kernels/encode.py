"""Encoders from float32 rows to ggml's blocks, bit-identical to libggml's reference.

Which code runs is a matter of speed alone: large ranges of K-quants, Q8_0 and Q4_0 are encoded by code that numba
compiles, where it is installed, everything else by libggml. The tests hold all of it, and the kernels for graphics
cards in ``cuda.py``, to the same bytes; ``specification.py`` says in the plainest way what these are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lanes

# Numba takes half a second to import. Only small models have nothing but smaller ranges.
_WORTH_IT = 1 << 18


def encode(kind: GGMLType, rows: torch.Tensor, importance: npt.NDArray[np.float32] | None = None) -> memoryview:
    """Encode rows as one type.

    Args:
        kind: the type.
        rows: float32 on the CPU, shape [n, columns], contiguous, columns a multiple of the type's block.
        importance: float32, shape [columns], or None. With it the algorithms are others and libggml encodes, but for
            Q8_0, on which it has no influence.

    Returns:
        The encoded bytes.
    """
    plain = importance is None or kind is GGMLType.Q8_0
    if kind in lanes.SUPPORTED and plain and rows.numel() >= _WORTH_IT and lanes.available():
        encoded = lanes.encode(kind, rows)
        if encoded is not None:
            return encoded.reshape(-1).numpy().data
    return ggml.quantize_rows(kind, rows.numpy(), importance).data
