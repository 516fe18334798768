"""Where to compute."""

from __future__ import annotations

import re

import torch

from quantkit.errors import QuantkitError


def choose_device(name: str) -> torch.device:
    """The device a user asked for: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        QuantkitError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise QuantkitError(f"device {name!r} is unknown", hint="use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise QuantkitError(f"device {name!r}: this machine has {count} CUDA devices", hint="pass --device cpu")
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 sums are float32 sums
    return device
