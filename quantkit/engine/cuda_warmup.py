"""What a CUDA device needs before the first range, prepared in the background.

:func:`begin` creates the contexts while modules are imported, :func:`warming_up` opens the devices while headers and
the vocabulary are read. To be early, the module imports only the standard library when it is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantkit.errors import QuantkitError

if TYPE_CHECKING:
    from quantkit.engine.device import Workers


def begin(device: str) -> None:
    """Begin to create the contexts of CUDA devices; without a driver, do nothing.

    That takes a while and needs only the driver; a worker meets what fails here again, and reports it.

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
def warming_up(workers: Workers) -> Iterator[None]:
    """Open the devices in a background thread, which has ended when the context is left.

    Args:
        workers: the workers, whose devices are opened.
    """
    if not workers.cuda:
        yield
        return
    thread = threading.Thread(target=_open_devices, args=(workers,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _open_devices(workers: Workers) -> None:
    from quantkit.kernels.cuda_driver import open_device

    with contextlib.suppress(QuantkitError):  # a worker meets what fails here again, and reports it
        for device in workers.devices:
            open_device(device.index)
