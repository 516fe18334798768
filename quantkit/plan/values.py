"""The plan: everything that will be written, decided from headers alone.

The plan has every tensor of every output with its type, offset and size, and the reason if a type is not the requested
one. After it, streaming decides nothing; ``--dry-run`` prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import GGMLType
from quantkit.gguf.kv import KV, string
from quantkit.plan.choice import Choice
from quantkit.plan.mixture import Importance
from quantkit.plan.order import Runs


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that will be written to the outputs.

    Attributes:
        name: its name in the output.
        source: its name in the checkpoint, or the names of the tensors that it stacks; empty for a generated tensor.
        shape: its shape in the output, outermost first.
        outtype: the type that it is rounded to once; quantized types are encoded from the rounded values. For a tensor
            that is already encoded, the type of the encoding.
        arrange: layout of consecutive rows, see :class:`quantkit.arch.base.Rule`.
        unit: rows must be read in multiples of this.
        source_unit: rows of the source for each ``unit`` rows; None for as many.
        values: a generated tensor's values, float32.
        compute: what the merged values become, see :class:`quantkit.arch.base.Rule`.
        folds: the source is one vector, which fills the rows.
        blocks: the source's blocks, which are of the outtype, are copied; ``row_order`` counts rows of its matrices.
        row_order, column_order, transposed: see :class:`quantkit.arch.base.Rule`.
        zero_rows: rows behind those of the source, all of them zero.
    """

    name: str
    source: str | tuple[str, ...]
    shape: tuple[int, ...]
    outtype: GGMLType
    arrange: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None
    unit: int = 1
    source_unit: int | None = None
    values: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    compute: Callable[[npt.NDArray[Any], int], npt.NDArray[Any]] | None = None
    folds: bool = False
    row_order: Runs = ()
    column_order: Runs = ()
    transposed: bool = False
    blocks: bool = False
    zero_rows: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of its rows, in order; all have the same number of rows."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def rows(self) -> int:
        """Number of rows; for stacked matrices, of all of them; 1 for a single number."""
        return count_elements(self.shape[:-1]) if len(self.shape) != 1 else self.shape[0]

    @property
    def columns(self) -> int:
        """Number of weights in a row; 1 for vectors."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def segment(self) -> int:
        """Number of rows of one source and, if matrices are stacked, of one matrix."""
        rows = self.rows // len(self.sources)
        return min(rows, self.shape[-2]) if len(self.shape) == 3 else rows  # kernels of convolutions are no stack


@dataclass(frozen=True)
class TensorSlot:
    """A tensor in one output: type, absolute offset, size, and the reason if the type is not the requested one."""

    type: GGMLType
    offset: int
    nbytes: int
    reason: str = ""


@dataclass(frozen=True)
class Output:
    """One file.

    Attributes:
        file: its name in the output folder.
        label: the requested type: ``f16``, ``q4_k_m``, ...; the same for all parts of a split model.
        header: the bytes before the tensors.
        nbytes: size of the file.
        tensors: by name, the type and location of each tensor.
        importance: imatrix by tensor name, for encoders that use one.
    """

    file: str
    label: str
    header: bytes = field(repr=False)
    nbytes: int
    tensors: Mapping[str, TensorSlot] = field(repr=False)
    importance: Importance = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Plan:
    """Everything that will be written.

    Attributes:
        architecture: GGUF name.
        metadata: metadata of all outputs, except for the file type.
        tensors: in the order in which they are streamed.
        outputs: the files.
        notes: decisions that the user should see.
        adapter_outputs: separate adapter files, if requested.
        mmproj: the file of the part that sees, if requested.
        choice: how the types of the file with the choice's label were chosen, if a size was asked for.
    """

    architecture: str
    metadata: tuple[KV, ...] = field(repr=False)
    tensors: tuple[PlannedTensor, ...] = field(repr=False)
    outputs: tuple[Output, ...]
    notes: tuple[str, ...] = ()
    adapter_outputs: tuple[Output, ...] = ()
    mmproj: Output | None = None
    choice: Choice | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all outputs."""
        return sum(output.nbytes for output in self.outputs)

    @property
    def models(self) -> tuple[tuple[Output, ...], ...]:
        """The outputs by model: one file each, or the parts of a split one."""
        return by_model(self.outputs)

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(count_elements(tensor.shape) for tensor in self.tensors)


def by_model(outputs: Sequence[Output]) -> tuple[tuple[Output, ...], ...]:
    """Outputs by model: one file each, or the parts of a split one."""
    return tuple(tuple(parts) for _, parts in groupby(outputs, lambda output: output.label))


def count_elements(shape: Sequence[int]) -> int:
    """Elements of a tensor of *shape*."""
    count = 1
    for size in shape:
        count *= size
    return count


def general_metadata(architecture: str, name: str) -> list[KV]:
    """The ``general.*`` entries, which llama.cpp and Ollama show."""
    return [
        string("general.architecture", architecture),
        string("general.type", "model"),
        string("general.name", name),
    ]


def file_name(name: str, label: str) -> str:
    """``NAME-q4_0.gguf``."""
    return f"{name}-{label}.gguf"
