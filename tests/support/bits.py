"""Arrays as the core holds them, and the tensors that torch reads from the same files: the same bits."""

from __future__ import annotations

import numpy as np
import torch

from quantkit.checkpoint.dtypes import BF16, F8_E4M3, F8_E5M2, F8_E8M0, Array
from quantkit.engine.rows import Rows

DTYPES = {
    torch.float32: np.dtype("<f4"), torch.float16: np.dtype("<f2"), torch.bfloat16: BF16, torch.bool: np.dtype("?"),
    torch.uint8: np.dtype("u1"), torch.int8: np.dtype("i1"), torch.int16: np.dtype("<i2"),
    torch.int32: np.dtype("<i4"), torch.int64: np.dtype("<i8"), torch.float8_e4m3fn: F8_E4M3,
    torch.float8_e5m2: F8_E5M2, torch.float8_e8m0fnu: F8_E8M0,
}  # fmt: skip
_TORCH = {dtype: theirs for theirs, dtype in DTYPES.items()}


def as_array(tensor: torch.Tensor) -> Array:
    """A tensor as the core holds it, in memory of its own."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().view(DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))


def as_tensor(values: Array | Rows) -> torch.Tensor:
    """An array of the core as torch holds it, in memory of its own; rows with everything added."""
    array = values.merged() if isinstance(values, Rows) else values
    raw = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy())
    return raw.view(_TORCH[array.dtype]).reshape(array.shape)


def bits(values: Array | torch.Tensor) -> tuple[tuple[int, ...], np.dtype, bytes]:
    """Shape, type and raw bytes, of either kind: what must be equal, NaN and signs of zero included."""
    array = as_array(values) if isinstance(values, torch.Tensor) else values
    return array.shape, array.dtype, array.tobytes()
