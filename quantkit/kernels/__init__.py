"""Encoders from float32 rows to ggml's blocks, bit-identical to libggml's reference.

Which code runs is a matter of speed alone: Q4_0 and Q8_0 are tensor operations, the K-quants are compiled by numba
where it is installed, everything else is libggml's. The tests hold all of them, and the kernels for graphics cards in
``cuda.py``, to the same bytes; ``specification.py`` says in the plainest way what these are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from quantkit import ggml
from quantkit.ggml_types import GGMLType
from quantkit.kernels import lanes, q4_0, q8_0

__all__ = ["encode"]

# None: these values are for libggml.
Encoder = Callable[[torch.Tensor], torch.Tensor | None]

_ENCODERS: dict[GGMLType, Encoder] = {GGMLType.Q4_0: q4_0.encode, GGMLType.Q8_0: q8_0.encode}


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
    encoder = _encoder(kind) if importance is None or kind is GGMLType.Q8_0 else None
    encoded = encoder(rows) if encoder else None
    if encoded is not None:
        return encoded.reshape(-1).numpy().data
    return ggml.quantize_rows(kind, rows.numpy(), importance).data


def _encoder(kind: GGMLType) -> Encoder | None:
    if kind in lanes.SUPPORTED and lanes.available():
        return partial(lanes.encode, kind)
    return _ENCODERS.get(kind)
