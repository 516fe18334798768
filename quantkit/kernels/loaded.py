"""The CUDA kernels of this process: each is compiled and loaded once per device, at its first use."""

from __future__ import annotations

import threading

import torch

from quantkit.ggml.types import GGMLType
from quantkit.kernels.cuda import CudaEncoders

_Key = tuple[int, GGMLType, GGMLType]
_encoders: dict[_Key, CudaEncoders] = {}
_lock = threading.Lock()


def encoder(device: torch.device, kind: GGMLType, source: GGMLType) -> CudaEncoders:
    """The encoder of one format for one type of input. Safe from any thread.

    Args:
        device: a CUDA device, with its index.
        kind: the format.
        source: the type of the rows: F16, BF16 or F32.

    Raises:
        QuantkitError: NVRTC or the driver reports an error, or is missing.
    """
    key = (device.index, kind, source)
    found = _encoders.get(key)
    if found is None:
        with _lock:
            found = _encoders.get(key)
            if found is None:
                found = _encoders[key] = CudaEncoders(device, [kind], source)
    return found
