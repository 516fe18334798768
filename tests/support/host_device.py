"""A CUDA device that is this machine's processor: the kernels' own source, built by its C++ compiler.

Slow, and without the arithmetic and the memory of a real device; but the job, its addresses, the order of the copies
and launches, and the kernels' loops are the real ones.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantkit.engine import cuda_backend
from quantkit.kernels import cuda
from quantkit.kernels.cuda_source import Variant, program
from tests.support.host_encoders import LIBRARIES, compiler

_FOLDER = Path(__file__).parent
_OPTIONS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-pthread", "-w")
_ENCODERS = '#include "encoders.cu"'

Kernel = Callable[[int, int, ctypes.c_void_p], None]


class HostLane:
    """:class:`quantkit.kernels.cuda_driver.Lane`, with a memory of its own for the device."""

    def __init__(self, device: object) -> None:
        self._here: dict[str, np.ndarray] = {}
        self._there: dict[str, np.ndarray] = {}

    def pinned(self, name: str, nbytes: int) -> np.ndarray:
        if name not in self._here or self._here[name].size < nbytes:
            # As aligned as a device's memory is.
            self._here[name], self._there[name] = (_aligned(nbytes) for _ in range(2))
        return self._here[name]

    def address(self, name: str) -> int:
        return int(self._there[name].ctypes.data)

    def copy_in(self, name: str, nbytes: int) -> None:
        self._there[name][:nbytes] = self._here[name][:nbytes]

    def copy_out(self, name: str, nbytes: int) -> None:
        self._here[name][:nbytes] = self._there[name][:nbytes]

    def copy_within(self, source: str, start: int, target: str, at: int, nbytes: int) -> None:
        self._there[target][at : at + nbytes] = self._there[source][start : start + nbytes]

    def launch(self, function: Kernel, blocks: int, threads: int, values: Sequence[int], types: Sequence[Any]) -> None:
        function(blocks, threads, *(kind(value) for value, kind in zip(values, types, strict=True)))

    def wait(self) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        self._here.clear()
        self._there.clear()


def _aligned(nbytes: int) -> np.ndarray:
    memory = np.full(nbytes + 256, 0xA5, dtype=np.uint8)
    start = -memory.ctypes.data % 256
    return memory[start : start + nbytes]


class HostKernels:
    """Kernels built in *folder* when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._built = folder, dict[Variant, ctypes.CDLL]()

    def kernel(self, device: object, variant: Variant, name: str = "carry") -> Kernel:
        """:func:`quantkit.kernels.cuda.kernel`."""
        if variant not in self._built:
            self._built[variant] = self._build(variant)
        return self._built[variant][f"run_{name}"]

    def _build(self, variant: Variant) -> ctypes.CDLL:
        command, folder = compiler(), self._folder / str(len(self._built))
        assert command is not None
        folder.mkdir()
        source, headers = program(variant)
        for name, text in headers.items():
            (folder / name).write_text(text, encoding="utf-8")
        arithmetic = (_FOLDER / "host_encoders.cpp").read_text(encoding="utf-8").split(_ENCODERS)[0]
        threads = (_FOLDER / "host_kernel.cpp").read_text(encoding="utf-8")
        kernels = [_ENCODERS + source.split(_ENCODERS)[1], "KERNEL(carry)"]
        if variant.needs_squares:
            kernels.append("KERNEL(squares)")
        (folder / "kernel.cpp").write_text("\n".join([arithmetic, threads, *kernels, ""]), encoding="utf-8")
        library = folder / "kernel.so"
        subprocess.run(
            [*command, *_OPTIONS, f"-I{folder}", str(folder / "kernel.cpp"), "-o", str(library), *LIBRARIES], check=True
        )
        return ctypes.CDLL(str(library))


def use_host(kernels: HostKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backends for CUDA devices work with these kernels."""
    monkeypatch.setattr(cuda_backend, "open_device", lambda index: None)
    monkeypatch.setattr(cuda_backend, "Lane", HostLane)
    monkeypatch.setattr(cuda, "kernel", kernels.kernel)
