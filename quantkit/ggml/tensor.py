"""``struct ggml_tensor``, read in place: what the evaluation callback of llama.cpp is given.

llama.cpp offers no functions for a tensor's shape, sources and operation, so they are read by their places in memory.
These belong to a release of ggml. :func:`check_layout` makes tensors with the library that is loaded, and compares what
is read of them with what its own functions say, so that another release is refused and never misread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.ggml.library import base_library
from quantkit.ggml.types import GGMLType

_DIMS, _SOURCES, _PARAMS, _NAME = 4, 10, 16, 64
_OBJECT = 32  # bytes of the struct before each tensor in a context


class Tensor(ctypes.Structure):
    """``struct ggml_tensor``. Sizes and strides are innermost first, strides in bytes."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMS),
        ("nb", ctypes.c_size_t * _DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * _PARAMS),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, outermost first: four."""
        return tuple(self.ne)[::-1]

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next, outermost first."""
        return tuple(self.nb)[::-1]


class _InitParams(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (_POINTER, (_InitParams,)),
    "ggml_free": (None, (_POINTER,)),
    "ggml_tensor_overhead": (ctypes.c_size_t, ()),
    "ggml_new_tensor_4d": (_POINTER, (_POINTER, ctypes.c_int, _INT64, _INT64, _INT64, _INT64)),
    "ggml_view_2d": (_POINTER, (_POINTER, _POINTER, _INT64, _INT64, ctypes.c_size_t, ctypes.c_size_t)),
    "ggml_mul_mat": (_POINTER, (_POINTER, _POINTER, _POINTER)),
    "ggml_mul_mat_id": (_POINTER, (_POINTER, _POINTER, _POINTER, _POINTER)),
    "ggml_set_name": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "ggml_get_name": (_POINTER, (_POINTER,)),
    "ggml_get_data": (_POINTER, (_POINTER,)),
    "ggml_op_name": (ctypes.c_char_p, (ctypes.c_int,)),
    "ggml_nbytes": (ctypes.c_size_t, (_POINTER,)),
    "ggml_nelements": (_INT64, (_POINTER,)),
    "ggml_backend_buffer_is_host": (ctypes.c_bool, (_POINTER,)),
    "ggml_backend_buffer_free": (None, (_POINTER,)),
    "ggml_backend_tensor_get": (None, (_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t)),
    "ggml_backend_tensor_set": (None, (_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t)),
    "ggml_backend_cpu_buffer_type": (_POINTER, ()),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_POINTER, (_POINTER, _POINTER)),
}


@cache
def functions() -> Any:
    """libggml's functions on tensors, as an object with their names."""
    library = base_library()
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise _other_release(f"it has no {name}") from None
        function.restype, function.argtypes = result, arguments
    return library


def tensor_at(address: int) -> Tensor:
    """The tensor at an address; valid as long as llama.cpp keeps it."""
    return Tensor.from_address(address)


@cache
def check_layout() -> tuple[int, int]:
    """Check that :class:`Tensor` is how the loaded libggml lays out its tensors.

    Returns:
        The numbers of the operations MUL_MAT and MUL_MAT_ID.

    Raises:
        QuantkitError: it is not.
    """
    ggml = functions()
    if ggml.ggml_tensor_overhead() != _OBJECT + ctypes.sizeof(Tensor):
        raise _other_release(f"a tensor takes {ggml.ggml_tensor_overhead() - _OBJECT} bytes")
    with _context(ggml) as context:
        f32, i32 = GGMLType.F32.value, GGMLType.I32.value
        weights = ggml.ggml_new_tensor_4d(context, GGMLType.Q8_0.value, 64, 5, 3, 1)
        rows = ggml.ggml_new_tensor_4d(context, f32, 64, 2, 7, 1)
        chosen = ggml.ggml_new_tensor_4d(context, i32, 2, 7, 1, 1)
        plain = ggml.ggml_new_tensor_4d(context, f32, 64, 6, 1, 1)
        matrix = ggml.ggml_new_tensor_4d(context, f32, 64, 9, 1, 1)
        view = ggml.ggml_view_2d(context, plain, 16, 3, 256, 512)
        product = ggml.ggml_mul_mat(context, matrix, plain)
        routed = ggml.ggml_mul_mat_id(context, weights, rows, chosen)
        ggml.ggml_set_name(product, b"a name")
        made = ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, ggml.ggml_backend_cpu_buffer_type())
        if not made:
            raise QuantkitError("libggml has no memory for seven small tensors", hint="close other programs")
        try:
            wrong = _wrong(ggml, made, weights, rows, chosen, plain, matrix, view, product, routed)
        finally:
            ggml.ggml_backend_buffer_free(made)
        if wrong:
            raise _other_release(f"{wrong} is elsewhere in a tensor")
        return tensor_at(product).op, tensor_at(routed).op


def _wrong(
    ggml: Any,
    made: int,
    weights: int,
    rows: int,
    chosen: int,
    plain: int,
    matrix: int,
    view: int,
    product: int,
    routed: int,
) -> str:
    """The first field that is not what libggml says; "" if all are."""
    seen = {address: tensor_at(address) for address in (weights, rows, chosen, plain, matrix, view, product, routed)}
    row = GGMLType.Q8_0.row_nbytes(64)
    results = seen[product], seen[routed]
    names = [ggml.ggml_op_name(one.op) if 0 <= one.op < 64 else b"" for one in results]
    checks = {
        "type": [one.type for one in seen.values()] == [8, 0, 26, 0, 0, 0, 0, 0],
        "ne": tuple(seen[weights].ne) == (64, 5, 3, 1) and tuple(seen[rows].ne) == (64, 2, 7, 1),
        "nb": tuple(seen[weights].nb) == (34, row, 5 * row, 15 * row) and tuple(seen[view].nb)[:2] == (4, 256),
        "op": names == [b"MUL_MAT", b"MUL_MAT_ID"],
        "src": list(results[0].src[:3]) == [matrix, plain, None]
        and list(results[1].src[:3]) == [weights, rows, chosen],
        "view_src": seen[view].view_src == plain and seen[plain].view_src is None,
        "view_offs": seen[view].view_offs == 512,
        "buffer": all(seen[address].buffer == made for address in (weights, rows, plain, product, routed)),
        "data": all(one.data and one.data == ggml.ggml_get_data(address) for address, one in seen.items()),
        "name": ggml.ggml_get_name(product) == product + Tensor.name.offset and results[0].name == b"a name",
        "size": all(_elements(one) == ggml.ggml_nelements(address) for address, one in seen.items()),
    }
    return next((field for field, right in checks.items() if not right), "")


def _elements(tensor: Tensor) -> int:
    count = 1
    for size in tensor.ne:
        count *= size
    return count


@contextmanager
def _context(ggml: Any) -> Iterator[int]:
    context = ggml.ggml_init(_InitParams(64 * ggml.ggml_tensor_overhead(), None, True))
    try:
        yield context
    finally:
        ggml.ggml_free(context)


def _other_release(what: str) -> QuantkitError:
    return QuantkitError(
        f"this release of llama-cpp-python lays out its tensors in another way than quantkit knows: {what}",
        hint="pip install llama-cpp-python==0.3.36; or make the matrix with llama-imatrix, and give it with --imatrix",
    )
