"""Encoders on a CUDA device: ``encoders.cu``, compiled for the device at hand when it is first used.

NVRTC comes with every CUDA build of torch, so nobody needs a compiler. What it makes is kept in the user's cache
folder; kernels are compiled once for each source, architecture and version of NVRTC.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from quantkit.errors import QuantkitError
from quantkit.ggml.types import GGMLType
from quantkit.kernels.cache import cache_folder
from quantkit.kernels.nvrtc import NVRTC

_THREADS = 128
# Contraction would round once where ggml rounds twice; the others are IEEE's division, root and small numbers.
_OPTIONS = ("--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false", "--std=c++17", "-default-device")


@dataclass(frozen=True)
class _Format:
    """An encoder of encoders.cu: how it is launched, its type there, and the threads that a block of weights takes."""

    launch: str
    name: str
    threads: int


_FORMATS = {
    GGMLType.Q4_0: _Format("encode_blocks", "BlockSymmetric<4>", 1),
    GGMLType.Q4_1: _Format("encode_blocks", "BlockAffine<4>", 1),
    GGMLType.Q5_0: _Format("encode_blocks", "BlockSymmetric<5>", 1),
    GGMLType.Q5_1: _Format("encode_blocks", "BlockAffine<5>", 1),
    GGMLType.Q8_0: _Format("encode_blocks", "Block8", 1),
    GGMLType.Q2_K: _Format("encode_super_blocks", "Affine16", 16),
    GGMLType.Q3_K: _Format("encode_super_blocks", "Symmetric3", 16),
    GGMLType.Q4_K: _Format("encode_super_blocks", "Affine32<4>", 8),
    GGMLType.Q5_K: _Format("encode_super_blocks", "Affine32<5>", 8),
    GGMLType.Q6_K: _Format("encode_super_blocks", "Symmetric6", 16),
}
SUPPORTED = frozenset(_FORMATS)
_INPUTS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


class CudaEncoders:
    """The kernels for some formats and one type of input, on one device. Safe from any thread.

    Values that ``arithmetic.decided`` does not accept get bytes which need not be ggml's: encode those with libggml.

    Args:
        device: a CUDA device.
        kinds: of :data:`SUPPORTED`.
        dtype: of the rows: float16, bfloat16 or float32.

    Raises:
        QuantkitError: NVRTC or the driver refuses.
    """

    def __init__(self, device: torch.device, kinds: Collection[GGMLType], dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._driver = _driver()
        self._context, module = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            torch.cuda.synchronize()  # the device's context exists and is current from here on
            self._check(self._driver.cuCtxGetCurrent(ctypes.byref(self._context)))
            self._check(self._driver.cuModuleLoadData(ctypes.byref(module), _binary(device, kinds, dtype)))
        self._functions = {kind: self._function(module, kind) for kind in kinds}

    def _function(self, module: ctypes.c_void_p, kind: GGMLType) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._check(self._driver.cuModuleGetFunction(ctypes.byref(function), module, kind.name.encode()))
        return function

    def encode(self, kind: GGMLType, rows: torch.Tensor) -> torch.Tensor:
        """Encode rows on the current stream.

        Args:
            kind: one of the formats.
            rows: on the device, of the type of input, contiguous, at an address that is a multiple of 16 (as every
                whole tensor's is, and every row's behind it); columns a multiple of the format's block.

        Returns:
            uint8 on the device, shape [blocks, bytes of a block].
        """
        assert rows.dtype is self.dtype, (rows.dtype, self.dtype)
        assert rows.is_contiguous()
        assert rows.data_ptr() % 16 == 0
        count = rows.numel() // kind.block
        with torch.cuda.device(rows.device):
            out = torch.empty(count, kind.block_nbytes, dtype=torch.uint8, device=rows.device)
            if count:
                self._launch(kind, rows.data_ptr(), out.data_ptr(), count)
        return out

    def _launch(self, kind: GGMLType, source: int, target: int, count: int) -> None:
        group = _THREADS // _FORMATS[kind].threads
        values = (ctypes.c_void_p(source), ctypes.c_void_p(target), ctypes.c_longlong(count))
        arguments = (ctypes.c_void_p * 3)(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        grid, block = (-(-count // group), 1, 1), (_THREADS, 1, 1)
        # A thread that has only used torch's memory so far has no context of its own accord.
        self._check(self._driver.cuCtxSetCurrent(self._context))
        self._check(self._driver.cuLaunchKernel(self._functions[kind], *grid, *block, 0, stream, arguments, None))

    def _check(self, status: int) -> None:
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {status}"
            raise QuantkitError(f"{self.device}: the CUDA driver refuses: {reason}", hint="pass --device cpu")


def _driver() -> ctypes.CDLL:
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise QuantkitError(f"{name} is missing", hint="install NVIDIA's driver, or pass --device cpu") from None


def program(kinds: Collection[GGMLType], dtype: torch.dtype) -> tuple[str, dict[str, str]]:
    """The source of the kernels for these formats and this type of input, and what it includes, by name."""
    folder = resources.files("quantkit.kernels")
    lines = [
        f"KERNEL({kind.name}, {_FORMATS[kind].launch}, {_FORMATS[kind].name}, {_INPUTS[dtype]})"
        for kind in sorted(kinds)
    ]
    text = (folder / "cuda.cu").read_text(encoding="utf-8")
    return "\n".join([text, *lines, ""]), {"encoders.cu": (folder / "encoders.cu").read_text(encoding="utf-8")}


def _binary(device: torch.device, kinds: Collection[GGMLType], dtype: torch.dtype) -> bytes:
    """The compiled kernels, from the cache if they are there."""
    source, headers = program(kinds, dtype)
    major, minor = torch.cuda.get_device_capability(device)
    options = (f"--gpu-architecture=sm_{major}{minor}", *_OPTIONS)
    nvrtc = NVRTC()
    text = "\0".join([source, *headers.values(), *options, nvrtc.version])
    path = cache_folder("kernels") / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.cubin"
    binary = read_kept(path)
    if binary is None:
        binary = nvrtc.compile(source, headers, options)
        keep(path, binary)
    return binary


def keep(path: Path, binary: bytes) -> None:
    """Into the cache, behind its hash; a cache that cannot be written costs a second and no more."""
    temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(binary).digest() + binary)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_kept(path: Path) -> bytes | None:
    """What was kept there, if it is there, whole and legible."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, binary = content[:32], content[32:]
    return binary if hashlib.sha256(binary).digest() == digest else None
