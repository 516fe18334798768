"""A GGUF model as a source of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from quantkit.checkpoint.dtypes import BY_TYPE
from quantkit.checkpoint.tensor_file import Memory, flat_shape, new_memory
from quantkit.engine.file_source import ReadFiles
from quantkit.engine.rows import Rows
from quantkit.errors import GGUFError, QuantizationError, QuantkitError
from quantkit.files.fileio import read_into
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.gguf.model import GGUFModel
from quantkit.gguf.vectors import is_narrow_vector
from quantkit.plan.values import Output, PlannedTensor


def gguf_tensors(model: GGUFModel) -> tuple[PlannedTensor, ...]:
    """List the tensors of a GGUF model, each with its own type as outtype."""
    return tuple(PlannedTensor(info.name, info.name, info.shape, info.type) for info in model.header.tensors.values())


def widened(tensors: Sequence[PlannedTensor]) -> tuple[PlannedTensor, ...]:
    """The tensors, with F32 for vectors of a 16-bit type, which llama.cpp cannot compute with."""
    return tuple(
        replace(tensor, outtype=GGMLType.F32) if is_narrow_vector(tensor.shape, tensor.outtype) else tensor
        for tensor in tensors
    )


def check_requantizing(model: GGUFModel, outputs: Sequence[Output], *, allowed: bool) -> None:
    """Refuse to quantize a quantized tensor unless that is allowed, and to convert one that cannot be decoded.

    Raises:
        QuantizationError: naming the tensor.
    """
    for output in outputs:
        for name, slot in output.tensors.items():
            stored = model.header.tensors[name].type
            if slot.type is stored or stored in BY_TYPE:
                continue
            path = model.files[model.locate(name)[0]]
            if not ggml.can_dequantize(stored):
                raise QuantizationError(
                    f"{path}: tensor {name!r} is {stored.label}, which cannot be turned into {slot.type.label}",
                    hint="start from the f16, bf16 or f32 GGUF file",
                )
            if not allowed:
                raise QuantizationError(
                    f"{path}: tensor {name!r} is {stored.label} already: quantizing twice loses quality",
                    hint="start from the f16, bf16 or f32 GGUF file, or pass --allow-requantize",
                )


@dataclass(frozen=True)
class GGUFSource:
    """Rows of a GGUF model.

    Attributes:
        model: the model.
        fds: its files, open for reading.
    """

    model: GGUFModel
    fds: tuple[int, ...]

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory = new_memory) -> Rows:
        """Read rows ``start:stop`` as they are stored; of a quantized tensor their bytes."""
        info = self.model.header.tensors[tensor.name]
        number, begin = self.model.locate(tensor.name)
        row = info.type.nbytes(info.shape) // tensor.rows
        buffer = memory(row * (stop - start))
        path = self.model.files[number]
        try:
            got = read_into(self.fds[number], buffer.data, begin + start * row)
        except OSError as error:
            raise GGUFError(f"{path}: cannot be read ({error.strerror or error})") from None
        if got != buffer.size:
            raise GGUFError(f"{path}: the file was truncated while it was read")
        if info.type not in BY_TYPE:
            return Rows(buffer.reshape(stop - start, row))
        return Rows(buffer.view(BY_TYPE[info.type]).reshape(stop - start, *flat_shape(info.shape)[1:]))

    def reads(self) -> ReadFiles:
        """The model's files."""
        return ReadFiles(tuple(self.model.files))

    def measures(self, tensor: PlannedTensor) -> bool:
        """No."""
        return False

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        """The error for values that are not finite: they can only come from the file."""
        path = self.model.files[self.model.locate(tensor.name)[0]]
        return GGUFError(f"{path}: tensor {tensor.name!r} has NaN or infinite values")


@contextmanager
def open_source(model: GGUFModel) -> Iterator[GGUFSource]:
    """Open the files of a model as a source.

    Raises:
        GGUFError: a file cannot be opened.
    """
    with ExitStack() as stack:
        fds = []
        for path in model.files:
            try:
                fds.append(stack.enter_context(path.open("rb", buffering=0)).fileno())
            except OSError as error:
                raise GGUFError(f"{path}: cannot be read ({error.strerror or error})") from None
        yield GGUFSource(model, tuple(fds))
