"""Encoders on a CUDA device: ``encoders.cu``, compiled for the device at its first use.

NVRTC comes with every CUDA build of torch, so no compiler needs to be installed. The user's cache folder keeps the
binaries, one for each source, architecture and version of NVRTC.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
from collections.abc import Collection
from pathlib import Path

import torch

from quantkit.errors import QuantkitError
from quantkit.ggml.types import GGMLType
from quantkit.kernels.cache import cache_folder
from quantkit.kernels.cuda_source import program
from quantkit.kernels.formats import FORMATS, SUPER_BLOCK, KQuant
from quantkit.kernels.nvrtc import NVRTC

_THREADS = 128
# Contraction would round once where ggml rounds twice; the others ask for IEEE division, square root and subnormals.
_OPTIONS = ("--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false", "--std=c++17", "-default-device")


class CudaEncoders:
    """The kernels for some formats and one type of input, on one device. Safe from any thread.

    The bytes of values that ``arithmetic.decided`` rejects may differ from ggml's: encode those with libggml.

    Args:
        device: a CUDA device.
        kinds: of :data:`quantkit.kernels.formats.FORMATS`.
        source: the type of the rows: F16, BF16 or F32.

    Raises:
        QuantkitError: NVRTC or the driver reports an error, or is missing.
    """

    def __init__(self, device: torch.device, kinds: Collection[GGMLType], source: GGMLType) -> None:
        self.device, self.source = device, source
        self._driver = _driver()
        self._context, module = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            torch.cuda.synchronize()  # creates the device's context and makes it current
            self._check(self._driver.cuCtxGetCurrent(ctypes.byref(self._context)))
            self._check(self._driver.cuModuleLoadData(ctypes.byref(module), _binary(device, kinds, source)))
        self._functions = {kind: self._function(module, kind) for kind in kinds}

    def _function(self, module: ctypes.c_void_p, kind: GGMLType) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._check(self._driver.cuModuleGetFunction(ctypes.byref(function), module, kind.name.encode()))
        return function

    def encode(self, kind: GGMLType, rows: torch.Tensor) -> torch.Tensor:
        """Encode rows on the current stream.

        Args:
            kind: one of the formats.
            rows: on the device, of the type of input, contiguous, at an address that is a multiple of 16 (as that of a
                whole tensor and of each of its rows is); columns a multiple of the format's block.

        Returns:
            uint8 on the device, shape [blocks, bytes per block].
        """
        assert rows.element_size() == self.source.block_nbytes, (rows.dtype, self.source)
        assert rows.is_contiguous()
        assert rows.data_ptr() % 16 == 0
        count = rows.numel() // kind.block
        with torch.cuda.device(rows.device):
            out = torch.empty(count, kind.block_nbytes, dtype=torch.uint8, device=rows.device)
            if count:
                self._launch(kind, rows.data_ptr(), out.data_ptr(), count)
        return out

    def _launch(self, kind: GGMLType, source: int, target: int, count: int) -> None:
        form = FORMATS[kind]
        group = _THREADS // (SUPER_BLOCK // form.block if isinstance(form, KQuant) else 1)
        values = (ctypes.c_void_p(source), ctypes.c_void_p(target), ctypes.c_longlong(count))
        arguments = (ctypes.c_void_p * 3)(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        grid, block = (-(-count // group), 1, 1), (_THREADS, 1, 1)
        # A thread that has used only torch's memory so far has no current context.
        self._check(self._driver.cuCtxSetCurrent(self._context))
        self._check(self._driver.cuLaunchKernel(self._functions[kind], *grid, *block, 0, stream, arguments, None))

    def _check(self, status: int) -> None:
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {status}"
            raise QuantkitError(f"{self.device}: the CUDA driver reported an error: {reason}", hint="pass --device cpu")


def _driver() -> ctypes.CDLL:
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise QuantkitError(f"{name} is missing", hint="install NVIDIA's driver, or pass --device cpu") from None


def _binary(device: torch.device, kinds: Collection[GGMLType], source: GGMLType) -> bytes:
    """The compiled kernels, from the cache if it has them."""
    text, headers = program(kinds, source)
    major, minor = torch.cuda.get_device_capability(device)
    options = (f"--gpu-architecture=sm_{major}{minor}", *_OPTIONS)
    nvrtc = NVRTC()
    key = "\0".join([text, *headers.values(), *options, nvrtc.version])
    path = cache_folder("kernels") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.cubin"
    binary = read_kept(path)
    if binary is None:
        binary = nvrtc.compile(text, headers, options)
        keep(path, binary)
    return binary


def keep(path: Path, binary: bytes) -> None:
    """Write a binary, after its hash, to the cache; if that fails, the next process compiles it again."""
    temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(binary).digest() + binary)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_kept(path: Path) -> bytes | None:
    """Read a binary from the cache; None if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, binary = content[:32], content[32:]
    return binary if hashlib.sha256(binary).digest() == digest else None
