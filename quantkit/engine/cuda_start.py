"""CUDA's start in the background. Apart from device.py, so that it begins before torch is imported.

Creating a device's context takes as long as importing torch does, and needs nothing but the driver. Torch uses the
same context afterwards.
"""

from __future__ import annotations

import ctypes
import os
import threading


def begin(device: str) -> None:
    """Begin to create the contexts that *device* (as a user gives it) will need; nothing where there is no driver.

    What goes wrong here goes wrong again, and is reported, when torch asks for the device.
    """
    if device == "auto" or device.startswith("cuda"):
        threading.Thread(target=_create, args=(device.partition(":")[2],), daemon=True).start()


def _create(number: str) -> None:
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
