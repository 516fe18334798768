"""An unquantized GGUF file as a source of rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from quantkit.errors import GGUFError, QuantizationError, QuantkitError
from quantkit.fileio import read_into
from quantkit.ggml_types import GGMLType
from quantkit.gguf_header import Header
from quantkit.plan import PlannedTensor
from quantkit.tensor_file import flat_shape

_DTYPES = {GGMLType.F32: torch.float32, GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16}


def gguf_tensors(path: Path, header: Header) -> tuple[PlannedTensor, ...]:
    """The tensors of a GGUF file, each based on its own type.

    Raises:
        QuantizationError: a tensor is quantized already.
    """
    for info in header.tensors.values():
        if info.type not in _DTYPES:
            raise QuantizationError(
                f"{path}: tensor {info.name!r} is {info.type.label} already: quantizing twice loses quality",
                hint="start from the f16, bf16 or f32 GGUF file",
            )
    return tuple(PlannedTensor(info.name, info.name, info.shape, info.type) for info in header.tensors.values())


@dataclass(frozen=True)
class GGUFSource:
    """Rows of an unquantized GGUF file; ``fd`` is the file, open for reading."""

    path: Path
    header: Header
    fd: int

    def rows(self, tensor: PlannedTensor, start: int, stop: int) -> torch.Tensor:
        """Rows ``start:stop`` as float32."""
        info = self.header.tensors[tensor.name]
        row = info.type.nbytes(info.shape) // tensor.rows
        buffer = bytearray(row * (stop - start))
        offset = self.header.data_offset + info.offset + start * row
        try:
            got = read_into(self.fd, memoryview(buffer), offset)
        except OSError as error:
            raise GGUFError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        if got != len(buffer):
            raise GGUFError(f"{self.path}: file became shorter while it was read")
        return (
            torch.frombuffer(buffer, dtype=_DTYPES[info.type])
            .reshape(stop - start, *flat_shape(info.shape)[1:])
            .float()
        )

    def blame(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        """Values that are not finite can only come from the file."""
        return GGUFError(f"{self.path}: tensor {tensor.name!r} has NaN or infinite values")
