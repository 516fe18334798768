"""The CUDA kernel of a range, compiled for the device, the types and the formats at hand when it is first used.

NVRTC, NVIDIA's run-time compiler, comes with CUDA builds of torch and with the extra ``cuda``: nobody needs another
compiler. Binaries are kept in the user's cache folder, by source, options and version of NVRTC.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import QuantkitError
from quantkit.kernels.cache import cache_folder, keep, read_kept
from quantkit.kernels.cuda_driver import CudaDevice
from quantkit.kernels.cuda_source import Variant, program
from quantkit.system.shell import installation

TILE, THREADS, PAIRS, FORMATS_PER_KERNEL = 4096, 128, 4, 8
# Rows of a thread block of ``squares``: a thread each, and few, so that they spread over the device.
ROWS = 32
# Contraction would round once where ggml rounds twice; the others are IEEE's division, root and small numbers.
_OPTIONS = ("--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false", "--std=c++17", "-default-device")

JOB = np.dtype(
    [
        ("stored", "<u8"), ("count", "<i8"), ("columns", "<i8"), ("pairs", "<i8"),
        ("pair", [("left", "<u8"), ("right", "<u8"), ("rank", "<i8")], PAIRS),
        ("rounded", "<u8"), ("flags", "<u8"), ("out", "<u8", FORMATS_PER_KERNEL),
        ("importance", "<u8", FORMATS_PER_KERNEL), ("grid", "<u8", FORMATS_PER_KERNEL), ("squares", "<u8"),
    ]
)  # fmt: skip
"""``struct Job`` of cuda.cu."""


_lock = threading.Lock()
_functions: dict[tuple[int, Variant, str], Any] = {}


def kernel(device: CudaDevice, variant: Variant, name: str = "carry") -> Any:
    """A kernel on a device, compiled and loaded when it is first asked for. Safe from any thread.

    Args:
        device: the device.
        variant: the program.
        name: of the kernel in it: ``carry``, or ``squares`` of a variant that needs those.

    Raises:
        QuantkitError: NVRTC or the driver refuses.
    """
    key = device.index, variant, name
    if key not in _functions:
        with _lock:
            if key not in _functions:
                _functions[key] = device.function(_binary(device.architecture, variant), name)
    return _functions[key]


def is_compiled(device: CudaDevice, variant: Variant) -> bool:
    """Whether the kernel is in the cache folder, so that asking for it costs nothing."""
    return read_kept(_path(device.architecture, variant)) is not None


@cache
def compiler() -> Any:
    """NVIDIA's runtime compiler, NVRTC.

    Raises:
        QuantkitError: it is not installed.
    """
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # the bindings look for the library at the first call
    except (ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        hint = f"install it {installation('cuda')}; or pass --device cpu"
        raise QuantkitError(f"NVRTC, which compiles the CUDA kernels, does not load: {why}", hint=hint) from None
    return nvrtc


def _text(architecture: str, variant: Variant) -> tuple[str, dict[str, str], tuple[str, ...]]:
    source, headers = program(variant)
    return source, headers, (f"--gpu-architecture={architecture}", *_OPTIONS)


def _path(architecture: str, variant: Variant) -> Path:
    source, headers, options = _text(architecture, variant)
    version = _check(compiler().nvrtcVersion())
    text = "\0".join([source, *headers.values(), *options, str(version)])
    return cache_folder("kernels") / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.cubin"


def _binary(architecture: str, variant: Variant) -> bytes:
    """The compiled kernel, from the cache if it is there."""
    path = _path(architecture, variant)
    binary = read_kept(path)
    if binary is None:
        binary = _compile(*_text(architecture, variant))
        keep(path, binary)
    return binary


def _compile(source: str, headers: dict[str, str], options: Sequence[str]) -> bytes:
    nvrtc = compiler()
    texts, names = ([part.encode() for part in parts] for parts in (headers.values(), headers))
    made = _check(nvrtc.nvrtcCreateProgram(source.encode(), b"cuda.cu", len(headers), texts, names))
    try:
        encoded = [option.encode() for option in options]
        if int(nvrtc.nvrtcCompileProgram(made, len(encoded), encoded)[0]):
            log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(made))
            _check(nvrtc.nvrtcGetProgramLog(made, log))
            first = next(iter(log.decode(errors="replace").splitlines()), "no reason given")
            raise QuantkitError(f"the CUDA kernels do not compile: {first}", hint="pass --device cpu")
        binary = b" " * int(_check(nvrtc.nvrtcGetCUBINSize(made)))
        _check(nvrtc.nvrtcGetCUBIN(made, binary))
        return binary
    finally:
        nvrtc.nvrtcDestroyProgram(made)


def _check(result: tuple[Any, ...]) -> Any:
    status, *values = result
    if int(status):
        reason = compiler().nvrtcGetErrorString(status)[1].decode()
        raise QuantkitError(f"NVRTC refuses: {reason}", hint="pass --device cpu")
    return values[0] if len(values) == 1 else values
