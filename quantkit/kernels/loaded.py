"""The CUDA kernels of this process: each is compiled and loaded once a device, when it is first asked for."""

from __future__ import annotations

import threading

import torch

from quantkit.ggml.types import GGMLType
from quantkit.kernels.cuda import CudaEncoders

_Key = tuple[int, GGMLType, torch.dtype]
_encoders: dict[_Key, CudaEncoders] = {}
_lock = threading.Lock()


def encoder(device: torch.device, kind: GGMLType, dtype: torch.dtype) -> CudaEncoders:
    """The encoder for one format and type of input. Safe from any thread.

    Raises:
        QuantkitError: NVRTC or the driver refuses.
    """
    key = (device.index, kind, dtype)
    found = _encoders.get(key)
    if found is None:
        with _lock:
            found = _encoders.get(key)
            if found is None:
                found = _encoders[key] = CudaEncoders(device, [kind], dtype)
    return found
