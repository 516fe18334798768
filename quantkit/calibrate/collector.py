"""Collects the importances while llama.cpp computes: its evaluation callback, with llama-imatrix's choice of tensors.

llama.cpp asks the callback about each operation of a graph before it, and shows the result of those that were wanted.
What counts is the other factor of each product with a layer's matrix: its rows are the activations.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.calibrate.held import Held
from quantkit.calibrate.products import Product, add_product
from quantkit.calibrate.sums import Sums
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.tensor import Tensor, check_layout, functions, tensor_at
from quantkit.ggml.types import GGMLType

_LEAST_ROWS = 16  # llama-imatrix passes over smaller products


class Collector:
    """The sums so far, and the callback that adds to them.

    Attributes:
        sums: by tensor name.
        callback: for ``llama_context_params.cb_eval``; must live as long as the context.
        held: keeps the products instead of adding them; None to add.
        error: what went wrong in the callback, which cannot raise.
    """

    def __init__(self, sums: dict[str, Sums] | None = None) -> None:
        """Begin with *sums*, or with none.

        Raises:
            QuantkitError: the loaded libggml is another release than quantkit can read.
        """
        self.sums = {} if sums is None else sums
        self.held: Held | None = None
        self.error: BaseException | None = None
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._guarded)
        self._product, self._routed = check_layout()
        self._ggml = functions()

    def snapshot(self) -> dict[str, Sums]:
        """A copy of the sums, to return to if the next step is not completed."""
        return {name: sums.copy() for name, sums in self.sums.items()}

    def _guarded(self, address: int, ask: bool, data: Any) -> bool:
        if self.error is not None:
            return False
        try:
            tensor = tensor_at(address)
            return self._wanted(tensor) if ask else self._collect(tensor)
        except BaseException as error:  # ctypes would print it and go on
            self.error = error
            return False

    def _wanted(self, tensor: Tensor) -> bool:
        if tensor.op == self._routed:
            return True
        if tensor.op != self._product:
            return False
        rows = tensor_at(tensor.src[1])
        return rows.ne[1] >= _LEAST_ROWS and rows.type == GGMLType.F32 and _name(tensor).startswith("blk.")

    def _collect(self, tensor: Tensor) -> bool:
        matrix, rows = tensor_at(tensor.src[0]), tensor_at(tensor.src[1])
        activations = self._values(tensor.src[1], rows, np.dtype(np.float32))
        _, inner, _, _ = matrix.shape
        if tensor.op == self._routed:
            chosen = self._values(tensor.src[2], tensor_at(tensor.src[2]), np.dtype(np.int32))[0, 0]
            product = Product(_name(tensor), (1, inner), activations, chosen)
        else:
            product = Product(_name(tensor), (matrix.ne[3], matrix.ne[2]), activations, None)
        if self.held is None:
            add_product(self.sums, product)
        else:
            self.held.keep(product, tensor.src[1])
        return True

    def _values(self, address: int, tensor: Tensor, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The values of a tensor, four sizes, outermost first; copied if they are not in the processor's memory."""
        nbytes = self._ggml.ggml_nbytes(address)
        if self._ggml.ggml_backend_buffer_is_host(tensor.buffer):
            raw = (ctypes.c_char * nbytes).from_address(tensor.data)
        else:
            raw = (ctypes.c_char * nbytes)()
            self._ggml.ggml_backend_tensor_get(address, raw, 0, nbytes)
        return np.ndarray(tensor.shape, dtype=dtype, buffer=raw, strides=tensor.strides)


def _name(tensor: Tensor) -> str:
    """The name of the matrix of a product, without what a scheduler puts around the names of its copies."""
    name = tensor_at(tensor.src[0]).name.decode(errors="replace")
    copied = name.split("#")
    return str(copied[1] if len(copied) > 1 else name)
