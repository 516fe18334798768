"""What will be written, decided from headers alone.

The plan names every tensor of every output with its type, offset and size, and gives the reason wherever a type is
not the one asked for. After it, streaming decides nothing; printing it is ``--dry-run``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from quantkit.arch.base import Part
from quantkit.errors import OutputError, QuantizationError
from quantkit.ggml_types import FTYPES, GGMLType
from quantkit.gguf_header import KV, TensorInfo, align, encode_header, string, u32
from quantkit.mixture import FALLBACK, Importance, Mixture, ask_llama_cpp

GGML_QUANT_VERSION = 2
EMBEDDING = "token_embd.weight"
# Types so small that llama.cpp refuses them without an imatrix (tensor_requires_imatrix in llama-quant.cpp).
_NEED_IMPORTANCE = frozenset(
    [GGMLType.IQ3_XXS, GGMLType.IQ2_XXS, GGMLType.IQ2_XS, GGMLType.IQ2_S, GGMLType.IQ1_M, GGMLType.IQ1_S]
)
# Those whose encoder itself cannot do without (ggml_quantize_requires_imatrix).
_ENCODER_NEEDS_IMPORTANCE = frozenset([GGMLType.IQ2_XXS, GGMLType.IQ2_XS, GGMLType.IQ1_S])
# GGUF's limit for names, without the closing zero (GGML_MAX_NAME)
_MAX_NAME = 63


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor on its way to the outputs.

    Attributes:
        name: in the output.
        source: in the checkpoint, or the parts it is stacked of; empty for a generated tensor.
        shape: of the output, outermost first.
        base: the type it is rounded to once; quantized types are encoded from the rounded values.
        arrange: layout of consecutive rows, see :class:`quantkit.arch.Rule`.
        unit: rows must be taken in multiples of this.
        values: a generated tensor's values, float32.
    """

    name: str
    source: str | tuple[Part, ...]
    shape: tuple[int, ...]
    base: GGMLType
    arrange: Callable[[torch.Tensor], torch.Tensor] | None = None
    unit: int = 1
    values: torch.Tensor | None = field(default=None, compare=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Where its rows come from, in order; each part is as long as the others."""
        return (Part(self.source),) if isinstance(self.source, str) else self.source

    @property
    def rows(self) -> int:
        """Rows, of stacked matrices those of all of them."""
        return count_elements(self.shape[:-1]) if len(self.shape) > 2 else self.shape[0]

    @property
    def columns(self) -> int:
        """Weights in a row; 1 for vectors."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def segment(self) -> int:
        """Rows that belong together: those of one part, and of one matrix where matrices are stacked."""
        part = self.rows // len(self.parts)
        return min(part, self.shape[-2]) if len(self.shape) > 2 else part


@dataclass(frozen=True)
class Placed:
    """A tensor's place in one output: type, absolute offset, size, and why where the type is not the asked one."""

    type: GGMLType
    offset: int
    nbytes: int
    reason: str = ""


@dataclass(frozen=True)
class Output:
    """One file.

    Attributes:
        file: its name in the output folder.
        label: what was asked for: ``f16``, ``q4_k_m``, ...
        header: the bytes before the tensors.
        nbytes: size of the file.
        tensors: by name, where each tensor goes.
        importance: imatrix by tensor name, for encoders that use one.
    """

    file: str
    label: str
    header: bytes = field(repr=False)
    nbytes: int
    tensors: Mapping[str, Placed] = field(repr=False)
    importance: Importance = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Plan:
    """Everything that will be written.

    Attributes:
        architecture: GGUF name.
        metadata: shared by all outputs but for the file type.
        tensors: in the order in which they stream.
        outputs: the files.
        notes: decisions the user should see.
    """

    architecture: str
    metadata: tuple[KV, ...] = field(repr=False)
    tensors: tuple[PlannedTensor, ...] = field(repr=False)
    outputs: tuple[Output, ...]
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all outputs."""
        return sum(output.nbytes for output in self.outputs)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(count_elements(tensor.shape) for tensor in self.tensors)


def count_elements(shape: Sequence[int]) -> int:
    """Elements of a tensor of *shape*."""
    count = 1
    for size in shape:
        count *= size
    return count


def base_output(file: str, label: str, metadata: Sequence[KV], tensors: Sequence[PlannedTensor]) -> Output:
    """The unquantized file: every tensor in its base type."""
    return _output(file, label, metadata, tensors, {tensor.name: tensor.base for tensor in tensors}, {}, {})


def choose_mixtures(
    labels: Collection[str],
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    importance: Importance | None = None,
    pure: bool = False,
) -> dict[str, Mixture]:
    """The types of all tensors for each file type, as llama.cpp itself would choose them.

    Args:
        labels: canonical names of the ftypes.
        metadata: of the base file; the vocabulary is not looked at.
        tensors: the planned tensors.
        importance: imatrix by tensor name.
        pure: the same type for all, no mixture.
    """
    if not labels:
        return {}
    bare = [entry for entry in metadata if not entry.key.startswith(("tokenizer.", "general.alignment"))]
    infos, _ = _layout(tensors, {tensor.name: tensor.base for tensor in tensors})
    answers = ask_llama_cpp(bare, infos, [FTYPES[label] for label in labels], importance or {}, pure)
    return dict(zip(labels, answers, strict=True))


def quantized_outputs(
    files: Mapping[str, str],
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    mixtures: Mapping[str, Mixture],
    importance: Importance | None = None,
) -> list[Output]:
    """Quantized files.

    Args:
        files: their names, by canonical name of the ftype.
        metadata: of the base file.
        tensors: the planned tensors.
        mixtures: the types, of :func:`choose_mixtures`.
        importance: imatrix by tensor name.

    Raises:
        QuantizationError: the type needs an imatrix and has none, or a row cannot be cut into blocks.
    """
    importance = importance or {}
    # Offsets are multiples of the default alignment here, whatever the file quantized from had.
    metadata = [entry for entry in metadata if entry.key != "general.alignment"]
    return [_quantized(file, label, metadata, tensors, importance, mixtures[label]) for label, file in files.items()]


def _quantized(
    file: str,
    label: str,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    importance: Importance,
    answer: Mixture,
) -> Output:
    if answer.needs_importance and not importance:
        raise QuantizationError(
            f"{label} needs an importance matrix: without one llama.cpp refuses it",
            hint="pass --imatrix FILE (made with llama-imatrix), or choose a type such as q4_k_m",
        )
    fitting = dict(importance)
    for tensor in tensors:
        kind = answer.types[tensor.name]
        if tensor.shape[-1] % kind.block:
            raise QuantizationError(
                f"{tensor.name}: rows of {tensor.shape[-1]} are no multiple of {kind.label}'s block of {kind.block}"
            )
        if kind is not tensor.base:
            _check_importance(tensor, kind, label, fitting)
    if importance and not fitting.keys() & {tensor.name for tensor in tensors}:
        raise QuantizationError(
            f"{label}: the importance matrix has no tensor of this model",
            hint="make the matrix with llama-imatrix from this model",
        )
    return _output(file, label, metadata, tensors, answer.types, answer.reasons, fitting)


def _check_importance(
    tensor: PlannedTensor, kind: GGMLType, label: str, importance: dict[str, npt.NDArray[np.float32]]
) -> None:
    """As llama.cpp: an imatrix of another size is an error (for the embedding: ignored), a missing one may be."""
    found = importance.get(tensor.name)
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    if found is not None and found.size != tensor.shape[-1] * experts:
        if tensor.name != EMBEDDING:
            raise QuantizationError(
                f"{tensor.name}: the imatrix has {found.size} columns, the tensor {tensor.shape[-1] * experts}",
                hint="make the matrix with llama-imatrix from this model",
            )
        del importance[tensor.name]
        found = None
    needed = kind in _NEED_IMPORTANCE or (kind is GGMLType.Q2_K and label == "q2_k_s")
    if tensor.name in (EMBEDDING, "output.weight"):
        needed = kind in _ENCODER_NEEDS_IMPORTANCE
    if needed and found is None and importance:
        raise QuantizationError(
            f"{tensor.name}: {kind.label} needs an importance matrix, the one given does not cover it",
            hint="make the matrix with llama-imatrix from this model, on more text",
        )


def fallback_notes(outputs: Sequence[Output]) -> list[str]:
    """A line for each output in which llama.cpp had to fall back to another type, and how often."""
    notes = []
    for output in outputs:
        fallen = [(name, place) for name, place in output.tensors.items() if place.reason.endswith(FALLBACK)]
        if fallen:
            name, place = fallen[0]
            notes.append(
                f"{output.label}: {len(fallen)} of {len(output.tensors)} tensors are not in the type asked for, "
                f"such as {name} ({place.type.label}): {place.reason}"
            )
    return notes


def _layout(tensors: Sequence[PlannedTensor], types: Mapping[str, GGMLType]) -> tuple[list[TensorInfo], int]:
    """Offsets in the data section, and its size."""
    infos, offset = [], 0
    for tensor in tensors:
        if len(tensor.name.encode()) > _MAX_NAME:
            raise OutputError(f"tensor name {tensor.name!r} is longer than {_MAX_NAME} bytes, GGUF's limit")
        infos.append(TensorInfo(tensor.name, tensor.shape, types[tensor.name], offset))
        offset += align(types[tensor.name].nbytes(tensor.shape))
    return infos, offset


def _output(
    file: str,
    label: str,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    types: Mapping[str, GGMLType],
    reasons: Mapping[str, str],
    importance: Importance,
) -> Output:
    infos, size = _layout(tensors, types)
    header = encode_header(with_file_type(metadata, FTYPES[label]), infos)
    placed = {
        info.name: Placed(
            info.type, len(header) + info.offset, info.type.nbytes(info.shape), reasons.get(info.name, "")
        )
        for info in infos
    }
    return Output(file, label, header, len(header) + size, placed, importance)


def with_file_type(metadata: Sequence[KV], ftype: int) -> list[KV]:
    """The metadata with file type and quantization version set, at their place if they have one."""
    fixed = {
        entry.key: entry
        for entry in (u32("general.file_type", ftype), u32("general.quantization_version", GGML_QUANT_VERSION))
    }
    result = [fixed.pop(entry.key, entry) for entry in metadata]
    return result + list(fixed.values())


def general_metadata(architecture: str, name: str) -> list[KV]:
    """``general.*``: what llama.cpp and Ollama show of a file."""
    return [
        string("general.architecture", architecture),
        string("general.type", "model"),
        string("general.name", name),
    ]


def file_name(name: str, label: str) -> str:
    """``NAME-q4_0.gguf``."""
    return f"{name}-{label}.gguf"
