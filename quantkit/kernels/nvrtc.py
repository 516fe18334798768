"""NVRTC, NVIDIA's run-time compiler: a program and its headers in, a binary out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence

import torch

from quantkit.errors import QuantkitError


class NVRTC:
    """The library that comes with torch.

    Raises:
        QuantkitError: it is missing.
    """

    def __init__(self) -> None:
        major = str(torch.version.cuda).split(".")[0]
        name = f"nvrtc64_{major}0_0.dll" if os.name == "nt" else f"libnvrtc.so.{major}"
        try:
            self._library = ctypes.CDLL(name)
        except OSError:
            raise QuantkitError(f"{name} is missing", hint="install torch with CUDA, or pass --device cpu") from None

    @property
    def version(self) -> str:
        """For example 13.0."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return f"{major.value}.{minor.value}"

    def compile(self, program: str, headers: Mapping[str, str], options: Sequence[str]) -> bytes:
        """Compile CUDA C++ for the architecture that the options name.

        Args:
            program: the source.
            headers: the texts of the files that it includes, by name.
            options: NVRTC's.

        Returns:
            A cubin.

        Raises:
            QuantkitError: with the first line of the compiler's log.
        """
        library, handle, size = self._library, ctypes.c_void_p(), ctypes.c_size_t()
        texts, names = (_strings(part) for part in (list(headers.values()), list(headers)))
        self._check(
            library.nvrtcCreateProgram(ctypes.byref(handle), program.encode(), b"cuda.cu", len(headers), texts, names)
        )
        try:
            if library.nvrtcCompileProgram(handle, len(options), _strings(options)):
                self._check(library.nvrtcGetProgramLogSize(handle, ctypes.byref(size)))
                log = ctypes.create_string_buffer(size.value)
                self._check(library.nvrtcGetProgramLog(handle, log))
                first = next(iter(log.value.decode(errors="replace").splitlines()), "no reason given")
                raise QuantkitError(f"the CUDA kernels do not compile: {first}", hint="pass --device cpu")
            self._check(library.nvrtcGetCUBINSize(handle, ctypes.byref(size)))
            binary = ctypes.create_string_buffer(size.value)
            self._check(library.nvrtcGetCUBIN(handle, binary))
            return binary.raw
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(handle))

    def _check(self, status: int) -> None:
        if status:
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            reason = self._library.nvrtcGetErrorString(status).decode()
            raise QuantkitError(f"NVRTC reported an error: {reason}", hint="pass --device cpu")


def _strings(values: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))
