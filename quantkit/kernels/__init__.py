"""Encoders from float32 rows to ggml's blocks, bit-identical to libggml's reference.

A format that has an encoder here, as plain tensor operations, is encoded with it because it is faster; every other
goes to libggml. The tests hold both to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from quantkit import ggml
from quantkit.ggml_types import GGMLType
from quantkit.kernels import q4_0, q8_0

__all__ = ["encode"]

# None: these values are for libggml.
Encoder = Callable[[torch.Tensor], torch.Tensor | None]

_ENCODERS: dict[GGMLType, Encoder] = {GGMLType.Q4_0: q4_0.encode, GGMLType.Q8_0: q8_0.encode}
# Formats whose algorithm is another with an importance matrix.
_USES_IMPORTANCE = frozenset([GGMLType.Q4_0])


def encode(kind: GGMLType, rows: torch.Tensor, importance: npt.NDArray[np.float32] | None = None) -> memoryview:
    """Encode rows as one type.

    Args:
        kind: the type.
        rows: float32 on the CPU, shape [n, columns], contiguous, columns a multiple of the type's block.
        importance: float32, shape [columns], or None.

    Returns:
        The encoded bytes.
    """
    encoder = _ENCODERS.get(kind) if importance is None or kind not in _USES_IMPORTANCE else None
    encoded = encoder(rows) if encoder else None
    if encoded is not None:
        return encoded.reshape(-1).numpy().data
    return ggml.quantize_rows(kind, rows.numpy(), importance).data
