"""CUDA's driver, through NVIDIA's own bindings (``cuda-bindings``): contexts, memory, streams, compiled kernels.

Nothing here needs torch. The bindings come with every CUDA build of torch, and with the extra ``cuda``.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantkitError

_HINT = "pass --device cpu"


@cache
def _bindings() -> Any:
    from cuda.bindings import driver

    return driver


def device_count() -> tuple[int, str]:
    """How many CUDA devices this process can use, and why none if there is none."""
    try:
        driver = _bindings()
    except ImportError:
        return 0, "cuda-bindings is not installed"
    try:
        if int(driver.cuInit(0)[0]):
            return 0, "there is no NVIDIA driver or no device"
        status, count = driver.cuDeviceGetCount()
    except RuntimeError as error:  # the bindings look for libcuda at the first call
        return 0, str(error)
    return (0, "the driver does not answer") if int(status) else (int(count), "")


def device_name(index: int) -> tuple[str, int]:
    """A device's name, and the bytes of its memory."""
    driver = _bindings()
    handle = _check(driver.cuDeviceGet(index), index)
    name = _check(driver.cuDeviceGetName(128, handle), index)
    return name.split(b"\0")[0].decode(), int(_check(driver.cuDeviceTotalMem(handle), index))


def _check(result: tuple[Any, ...], index: int) -> Any:
    """The value of a call.

    Raises:
        QuantkitError: the driver refuses.
    """
    status, *values = result
    if int(status):
        driver = _bindings()
        reason = driver.cuGetErrorString(status)[1]
        text = reason.decode() if isinstance(reason, bytes) else str(status)
        if int(status) == int(driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY):
            raise QuantkitError(f"cuda:{index}: out of memory", hint=f"pass a smaller --threads, or {_HINT[5:]}")
        raise QuantkitError(f"cuda:{index}: the CUDA driver refuses: {text}", hint=_HINT)
    return values[0] if values else None


class CudaDevice:
    """One device with its primary context. Safe from any thread; each thread makes it current first.

    Args:
        index: of the device.

    Raises:
        QuantkitError: the driver refuses.
    """

    def __init__(self, index: int) -> None:
        self.index, self._driver = index, _bindings()
        self.check(self._driver.cuInit(0))
        self._device = self.check(self._driver.cuDeviceGet(index))
        self._context = self.check(self._driver.cuDevicePrimaryCtxRetain(self._device))
        self._modules: dict[bytes, Any] = {}
        self._lock = threading.Lock()

    def check(self, result: tuple[Any, ...]) -> Any:
        """The value of a call of the driver; see :func:`_check`."""
        return _check(result, self.index)

    def make_current(self) -> None:
        """Make the context current in this thread."""
        self.check(self._driver.cuCtxSetCurrent(self._context))

    @property
    def architecture(self) -> str:
        """What NVRTC calls the device: ``sm_90``."""
        attribute = self._driver.CUdevice_attribute
        kinds = (
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
        major, minor = (self.check(self._driver.cuDeviceGetAttribute(kind, self._device)) for kind in kinds)
        return f"sm_{major}{minor}"

    def function(self, binary: bytes, name: str) -> Any:
        """A kernel of a cubin, which is loaded once."""
        with self._lock:
            if binary not in self._modules:
                self.make_current()
                self._modules[binary] = self.check(self._driver.cuModuleLoadData(binary))
            return self.check(self._driver.cuModuleGetFunction(self._modules[binary], name.encode()))


@cache
def open_device(index: int) -> CudaDevice:
    """The device of this process."""
    return CudaDevice(index)


class Lane:
    """What one worker has of a device: a stream, and buffers that grow: pinned and on the device, in and out.

    Used by one thread, in which the device is current.
    """

    def __init__(self, device: CudaDevice) -> None:
        self.device, self._driver = device, _bindings()
        device.make_current()
        flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self.stream = device.check(self._driver.cuStreamCreate(flags))
        self._buffers: dict[str, tuple[int, npt.NDArray[np.uint8], int]] = {}  # address here, memory, address there

    def pinned(self, name: str, nbytes: int) -> npt.NDArray[np.uint8]:
        """Pinned memory of this name, uint8, at least *nbytes*; what was in it is kept if it need not grow."""
        return self._buffer(name, nbytes)[1]

    def _buffer(self, name: str, nbytes: int) -> tuple[int, npt.NDArray[np.uint8], int]:
        buffer = self._buffers.get(name)
        if buffer is None or buffer[1].size < nbytes:
            check, driver = self.device.check, self._driver
            if buffer is not None:
                self._free(self._buffers.pop(name))
            here = int(check(driver.cuMemHostAlloc(nbytes, 0)))
            memory = np.ctypeslib.as_array((ctypes.c_ubyte * nbytes).from_address(here))
            there = int(check(driver.cuMemAlloc(nbytes)))
            buffer = self._buffers[name] = here, memory, there
        return buffer

    def address(self, name: str) -> int:
        """The device's memory that goes with the pinned memory of this name."""
        return self._buffers[name][2]

    def copy_in(self, name: str, nbytes: int) -> None:
        """Begin to copy the first *nbytes* to the device."""
        here, _, there = self._buffers[name]
        self.device.check(self._driver.cuMemcpyHtoDAsync(there, here, nbytes, self.stream))

    def copy_out(self, name: str, nbytes: int) -> None:
        """Begin to copy the first *nbytes* back."""
        here, _, there = self._buffers[name]
        self.device.check(self._driver.cuMemcpyDtoHAsync(here, there, nbytes, self.stream))

    def copy_within(self, source: str, start: int, target: str, at: int, nbytes: int) -> None:
        """Begin to copy between two buffers on the device."""
        there, here = self.address(target) + at, self.address(source) + start
        self.device.check(self._driver.cuMemcpyDtoDAsync(there, here, nbytes, self.stream))

    def launch(self, function: Any, blocks: int, threads: int, values: Sequence[Any], types: Sequence[Any]) -> None:
        """Begin a kernel."""
        arguments = (tuple(values), tuple(types))
        launch = self._driver.cuLaunchKernel
        self.device.check(launch(function, blocks, 1, 1, threads, 1, 1, 0, self.stream, arguments, 0))

    def wait(self) -> None:
        """Until all that was begun is done."""
        self.device.check(self._driver.cuStreamSynchronize(self.stream))

    def _free(self, buffer: tuple[int, npt.NDArray[np.uint8], int]) -> None:
        self.wait()
        self.device.check(self._driver.cuMemFreeHost(buffer[0]))
        self.device.check(self._driver.cuMemFree(buffer[2]))

    def close(self) -> None:
        """Give everything back."""
        while self._buffers:
            self._free(self._buffers.popitem()[1])
        self.device.check(self._driver.cuStreamDestroy(self.stream))
