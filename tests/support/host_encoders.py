"""The CUDA kernels' arithmetic on this machine's processor, built by its C++ compiler."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np

import quantkit
from quantkit.ggml.types import GGMLType
from quantkit.kernels.cuda_source import encoder, has_weighted, header, launcher
from quantkit.kernels.formats import FORMATS, WITH_GRID
from quantkit.kernels.grids import device_table

_SOURCE = Path(__file__).with_name("host_encoders.cpp")
# Without contraction, as the kernels are compiled.
_OPTIONS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared")
# $CXX may be a compiler that does not add them, such as gcc.
LIBRARIES = ("-lstdc++", "-lm")


def compiler() -> list[str] | None:
    """The C++ compiler's command: ``$CXX``, or ``c++``; None if there is none."""
    command = shlex.split(os.environ.get("CXX", "c++"))
    return command if shutil.which(command[0]) else None


class HostEncoders:
    """``encoders.cu`` as a shared library, built in *folder*."""

    def __init__(self, folder: Path) -> None:
        command, library = compiler(), folder / "host_encoders.so"
        assert command is not None
        (folder / "formats.h").write_text(header(), encoding="utf-8")
        program = folder / "host_encoders.cpp"
        lines = [
            f"{'GRID_' * (form.type in WITH_GRID)}ENCODER({form.type.name}, {launcher(form)}, {encoder(form)})"
            for form in FORMATS.values()
        ]
        lines += [
            f"WEIGHTED_ENCODER({form.type.name}, {launcher(form, True)}, {encoder(form, True)})"
            for form in FORMATS.values()
            if has_weighted(form)
        ]
        program.write_text("\n".join([_SOURCE.read_text(encoding="utf-8"), *lines, ""]), encoding="utf-8")
        include = [f"-I{folder}", f"-I{Path(quantkit.__file__).parent / 'kernels'}"]
        subprocess.run([*command, *_OPTIONS, *include, str(program), "-o", str(library), *LIBRARIES], check=True)
        self._library = ctypes.CDLL(str(library))

    def encode(self, kind: GGMLType, rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
        """uint8, shape [blocks, bytes of a block], of contiguous float32 rows, by the importance of each column."""
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        out = np.zeros((rows.size // kind.block, kind.block_nbytes), dtype=np.uint8)
        arguments = [ctypes.c_void_p(rows.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_longlong(len(out))]
        given = (ctypes.c_void_p(None), ctypes.c_longlong(0))
        if importance is not None:
            assert importance.dtype == np.float32
            given = (ctypes.c_void_p(importance.ctypes.data), ctypes.c_longlong(importance.size))
        if kind in WITH_GRID:
            self._library[f"grid_{kind.name}"](*arguments, *given, ctypes.c_void_p(device_table(kind).ctypes.data))
        elif importance is None:
            self._library[kind.name](*arguments)
        else:
            self._library[f"weighted_{kind.name}"](*arguments, *given)
        return out
