"""The few calls into libggml-base, the C library that llama.cpp uses for quantization.

It is loaded by path from the installed llama-cpp-python, without importing that. ctypes releases the GIL during a call,
so threads encode in parallel. numpy is imported where it is used: a shell that completes names of types must not wait
for it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.errors import QuantizationError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_NAMES = {"win32": "ggml-base.dll", "darwin": "libggml-base.dylib"}
_FLOATS = ctypes.POINTER(ctypes.c_float)
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits``."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
        ("from_float_ref", ctypes.c_void_p),
    )


class _Pair(ctypes.Structure):
    """What libggml sorts: a value, and its number."""

    _fields_ = (("value", ctypes.c_float), ("number", ctypes.c_int))


_COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Pair), ctypes.POINTER(_Pair))


def library_folder() -> Path:
    """The folder of llama-cpp-python's shared libraries.

    Raises:
        QuantizationError: llama-cpp-python is not installed.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise QuantizationError("llama-cpp-python is not installed", hint="pip install llama-cpp-python")
    return Path(spec.origin).parent / "lib"


def library_sizes() -> list[tuple[str, int]]:
    """The libraries by name and size: the same version may be built for a processor or a GPU.

    Raises:
        QuantizationError: llama-cpp-python is not installed.
    """
    files = [file for file in library_folder().iterdir() if file.is_file() and not file.is_symlink()]
    return sorted((file.name, file.stat().st_size) for file in files)


@cache
def _library() -> ctypes.CDLL:
    path = library_folder() / _NAMES.get(sys.platform, "libggml-base.so")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise QuantizationError(
            f"{path}: cannot be loaded ({error})", hint="pip install --force-reinstall llama-cpp-python"
        ) from None
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, _FLOATS,
    ]  # fmt: skip
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return library


def base_library() -> ctypes.CDLL:
    """libggml-base, for functions that are declared elsewhere.

    Raises:
        QuantizationError: llama-cpp-python is not installed, or its library cannot be loaded.
    """
    return _library()


@cache
def block_size(ggml_type: int) -> int:
    """Number of weights in a block of *ggml_type*."""
    return int(_library().ggml_blck_size(ctypes.c_int(ggml_type)))


@cache
def block_nbytes(ggml_type: int) -> int:
    """Bytes of a block of *ggml_type*."""
    return int(_library().ggml_type_size(ctypes.c_int(ggml_type)))


@cache
def type_name(ggml_type: int) -> str:
    """ggml's name for *ggml_type*, such as ``q4_K``."""
    return str(_library().ggml_type_name(ctypes.c_int(ggml_type)).decode())


def is_valid(ggml_type: int, data: memoryview | bytes) -> bool:
    """Whether encoded rows contain no NaN or infinity, checked as in llama.cpp."""
    import numpy as np

    raw = np.frombuffer(data, dtype=np.uint8)
    return bool(_library().ggml_validate_row_data(ggml_type, raw.ctypes.data, raw.nbytes))


def quantize_rows(
    ggml_type: int, rows: npt.NDArray[np.float32], importance: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """Encode rows with ggml's reference quantizer.

    Args:
        ggml_type: the number of a ggml type.
        rows: float32, shape [n, columns], contiguous; columns must be a multiple of the type's block.
        importance: float32, shape [columns]: the importance of each column (imatrix), or None.

    Returns:
        The encoded bytes, shape [n * row_nbytes].
    """
    import numpy as np

    count, columns = rows.shape
    out = np.empty(count * (columns // block_size(ggml_type)) * block_nbytes(ggml_type), dtype=np.uint8)
    weights = None if importance is None else importance.ctypes.data_as(_FLOATS)
    written = _library().ggml_quantize_chunk(ggml_type, rows.ctypes.data, out.ctypes.data, 0, count, columns, weights)
    assert written == out.nbytes, (ggml_type, rows.shape, written, out.nbytes)
    return out


@cache
def sorts_stably() -> bool:
    """Whether the C library's ``qsort``, as libggml calls it to encode IQ1, leaves equal values in their order.

    C does not say so, and glibc's does. Where it does not, only libggml knows what becomes of blocks with equal values.
    """
    try:
        sort = _library().qsort
    except AttributeError:
        return False
    for count in (16, 32):
        for different in range(1, count):
            pairs = (_Pair * count)(*(_Pair(i * i * 7 % different, i) for i in range(count)))
            sort(pairs, ctypes.c_size_t(count), ctypes.c_size_t(ctypes.sizeof(_Pair)), _COMPARE(_compare))
            found = [(pair.value, pair.number) for pair in pairs]
            if found != sorted(found):
                return False
    return True


def _compare(left: ctypes._Pointer[_Pair], right: ctypes._Pointer[_Pair]) -> int:
    a, b = left.contents.value, right.contents.value
    return int(a > b) - int(a < b)


def can_dequantize(ggml_type: int) -> bool:
    """Whether encoded rows of *ggml_type* can be decoded to float32."""
    traits = _library().ggml_get_type_traits(ggml_type).contents
    return bool(traits.is_quantized) and bool(traits.to_float)


def dequantize_rows(ggml_type: int, data: memoryview | bytes, columns: int) -> npt.NDArray[np.float32]:
    """Decode rows, as llama.cpp does before it quantizes them again.

    Args:
        ggml_type: the number of a quantized type for which :func:`can_dequantize` is true.
        data: encoded rows.
        columns: number of weights in a row.

    Returns:
        float32, shape [rows, columns].
    """
    import numpy as np

    raw = np.frombuffer(data, dtype=np.uint8)
    rows = raw.nbytes // (columns // block_size(ggml_type) * block_nbytes(ggml_type))
    out = np.empty((rows, columns), dtype=np.float32)
    traits = _library().ggml_get_type_traits(ggml_type).contents
    traits.to_float(raw.ctypes.data, out.ctypes.data, out.size)
    return out
