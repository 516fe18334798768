"""PyTorch pickles: tensors of a ``.bin`` or ``.pt`` file without running its code.

The only reader of weights that needs torch, so it is imported when there is such a file.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from quantkit.checkpoint.dtypes import READABLE, Array
from quantkit.checkpoint.tensor_file import Memory, Refusal, TensorSpec, flat_shape, new_memory
from quantkit.errors import CheckpointError

_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL", torch.uint8: "U8",
    torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip


class PickleFile:
    """A PyTorch pickle: unpickled with ``weights_only``, so none of its code runs, and mapped, not loaded."""

    def __init__(self, path: Path, refuse: Refusal = CheckpointError) -> None:
        self.path = path
        if not path.is_file():
            raise FileNotFoundError(path)
        hint = "save the model with safe_serialization=True (safetensors) on a machine you trust"
        try:
            state = _load_pickle(path)
        except _BROKEN_PICKLE as error:
            # PyTorch's message advises loading the file with its code, so it is not shown.
            if match := _FOREIGN.search(str(error)):
                raise refuse(f"{path}: contains more than tensors ({match[1] or match[2]})", hint=hint) from None
            raise refuse(
                f"{path}: broken, truncated or not a PyTorch file ({type(error).__name__})",
                hint="download the file again",
            ) from None
        if not isinstance(state, dict):
            raise refuse(f"{path}: contains a {type(state).__name__}, not a dictionary of tensors", hint=hint)
        for name, value in state.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise refuse(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor", hint=hint)
        self._tensors: dict[str, torch.Tensor] = {name: tensor.detach() for name, tensor in state.items()}
        self.specs: Mapping[str, TensorSpec] = {
            name: TensorSpec(
                name,
                _NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")),
                tuple(tensor.shape),
                path,
                0,
                tensor.numel() * tensor.element_size(),
            )
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str, start: int = 0, stop: int | None = None, memory: Memory = new_memory) -> Array:
        tensor, dtype = self._tensors[name], READABLE[self.specs[name].dtype]
        tensor = tensor.reshape(flat_shape(tuple(tensor.shape)))
        rows = tensor[start:stop] if tensor.dim() else tensor
        # A copy, flat: torch takes some tensors for contiguous whose strides it then cannot view as bytes.
        flat = torch.empty(rows.numel(), dtype=rows.dtype).copy_(rows.reshape(-1))
        return flat.view(torch.uint8).numpy().view(dtype).reshape(tuple(rows.shape))

    def close(self) -> None:
        self._tensors = {}


# PyTorch's error for a pickle that names code, or uses an operation, that it does not allow.
_FOREIGN = re.compile(r"GLOBAL (\w+(?:\.\w+)*)(?!\S)|Unsupported (operand \d+)")
# What its unpickler, and its reader of the format before PyTorch 1.6, raise for a damaged file.
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _load_pickle(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about pickle protocols other than 2
        try:
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # the format before PyTorch 1.6 cannot be mapped
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
