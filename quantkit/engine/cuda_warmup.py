"""What a CUDA device needs before the first range, prepared in the background.

:func:`begin` creates the context while torch is imported, :func:`warming_up` loads the kernels while headers and the
vocabulary are read. To be early, the module imports only the standard library when it is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantkit.errors import QuantkitError

if TYPE_CHECKING:
    import torch

    from quantkit.engine.device import Workers
    from quantkit.ggml.types import GGMLType

# The type that llama.cpp mixes into files named after another type.
_MIXED_IN = "Q6_K"


def begin(device: str) -> None:
    """Begin to create the contexts of CUDA devices; without a driver, do nothing.

    That takes as long as importing torch, and needs only the driver. Torch uses the same contexts afterwards, and
    reports what fails here when it fails again.

    Args:
        device: as a user gives it: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if device == "auto" or device.startswith("cuda"):
        threading.Thread(target=_create_contexts, args=(device.partition(":")[2],), daemon=True).start()


def _create_contexts(number: str) -> None:
    """Create the context of device *number*, or of every device if that is empty."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return
    for index in range(count.value):
        if not number or str(index) == number:
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), index)


@contextmanager
def warming_up(workers: Workers, quants: Collection[str], outtype: str) -> Iterator[None]:
    """Load libraries and kernels in a background thread, which has ended when the context is left.

    Args:
        workers: the workers, whose devices are prepared.
        quants: llama-quantize's names of the types to make.
        outtype: the type that weights are rounded to first: f16, bf16 or f32.
    """
    if not workers.cuda:
        yield
        return
    from quantkit.ggml.types import UNQUANTIZED
    from quantkit.kernels.formats import FORMATS

    named = {quant.upper().removesuffix("_S").removesuffix("_M").removesuffix("_L") for quant in quants}
    kinds = [kind for kind in FORMATS if kind.name in named or (named and kind.name == _MIXED_IN)]
    thread = threading.Thread(target=_warm_up, args=(workers.devices, kinds, UNQUANTIZED[outtype]))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _warm_up(devices: Collection[torch.device], kinds: Collection[GGMLType], source: GGMLType) -> None:
    import torch

    from quantkit.checkpoint.dtypes import TORCH_DTYPES
    from quantkit.kernels import loaded

    # A worker meets what fails here again, and reports it.
    with contextlib.suppress(QuantkitError, RuntimeError):
        for device in devices:
            with torch.cuda.device(device):
                rows = torch.zeros(64, 256, device=device)
                rows.addmm_(rows[:, :16], rows[:16]).aminmax()
                blocks = rows.to(TORCH_DTYPES[source])
                for kind in kinds:
                    loaded.encoder(device, kind, source).encode(kind, blocks)
                torch.cuda.synchronize()
