"""The plan's GGUF files: types, offsets and headers, for the unquantized file and for every quantized one.

A file may be split into parts no larger than asked for, as llama.cpp's converter does: all metadata are in the first,
each says which it is and of how many, and llama.cpp loads the others by their names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from quantkit.errors import OutputError, QuantizationError
from quantkit.ggml.types import FTYPES, GGMLType
from quantkit.gguf.header import OUTPUT, TensorInfo, align, encode_header
from quantkit.gguf.kv import KV, i32, u16, u32
from quantkit.gguf.split import SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, part_name
from quantkit.plan.mixture import Importance, Mixture, ask_llama_cpp
from quantkit.plan.packing import pack
from quantkit.plan.type_choices import EMBEDDINGS, NO_CHOICES, TypeChoices
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

GGML_QUANT_VERSION = 2
# Types so small that llama.cpp refuses them without an imatrix (tensor_requires_imatrix in llama-quant.cpp).
_NEED_IMPORTANCE = frozenset(
    [GGMLType.IQ3_XXS, GGMLType.IQ2_XXS, GGMLType.IQ2_XS, GGMLType.IQ2_S, GGMLType.IQ1_M, GGMLType.IQ1_S]
)
# Those whose encoder itself cannot do without (ggml_quantize_requires_imatrix).
_ENCODER_NEEDS_IMPORTANCE = frozenset([GGMLType.IQ2_XXS, GGMLType.IQ2_XS, GGMLType.IQ1_S])
# GGUF's limit for names, without the closing zero (GGML_MAX_NAME)
_MAX_NAME = 63
# split.no and split.count are 16 bits wide
_MAX_PARTS = 65535


def unquantized_outputs(
    file: str, label: str, metadata: Sequence[KV], tensors: Sequence[PlannedTensor], max_size: int | None = None
) -> list[Output]:
    """The unquantized file, or its parts: every tensor in its base type.

    Args:
        file: its name.
        label: its type: ``f16``, ``bf16`` or ``f32``.
        metadata: for its header.
        tensors: the planned tensors.
        max_size: bytes of weights in a part at most; a larger tensor gets a part of its own. None for one file.
    """
    types = {tensor.name: tensor.outtype for tensor in tensors}
    return _outputs(file, label, metadata, tensors, Mixture(types, {}, False), {}, max_size)


def plain_output(file: str, label: str, metadata: Sequence[KV], tensors: Sequence[PlannedTensor]) -> Output:
    """A file of which no type is said in the metadata: every tensor in its base type (an adapter)."""
    types = {tensor.name: tensor.outtype for tensor in tensors}
    return _output(file, label, metadata, tensors, Mixture(types, {}, False), {})


def choose_mixtures(
    labels: Collection[str],
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    importance: Importance | None = None,
    choices: TypeChoices = NO_CHOICES,
) -> dict[str, Mixture]:
    """The types of all tensors for each file type, as llama.cpp itself would choose them.

    Args:
        labels: canonical names of the ftypes.
        metadata: of the base file; the vocabulary is not looked at.
        tensors: the planned tensors.
        importance: imatrix by tensor name.
        choices: of types for single tensors.
    """
    if not labels:
        return {}
    bare = [entry for entry in metadata if not entry.key.startswith(("tokenizer.", "general.alignment"))]
    infos, _ = _layout(tensors, {tensor.name: tensor.outtype for tensor in tensors})
    answers = ask_llama_cpp(bare, infos, [FTYPES[label] for label in labels], importance or {}, choices)
    return dict(zip(labels, answers, strict=True))


def quantized_outputs(
    files: Mapping[str, str],
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    mixtures: Mapping[str, Mixture],
    importance: Importance | None = None,
    max_size: int | None = None,
) -> list[Output]:
    """Quantized files; the parts of a split one follow each other.

    Args:
        files: their names, by canonical name of the ftype.
        metadata: of the base file.
        tensors: the planned tensors.
        mixtures: the types, of :func:`choose_mixtures`.
        importance: imatrix by tensor name.
        max_size: as in :func:`unquantized_outputs`.

    Raises:
        QuantizationError: the type needs an imatrix and has none, or a row cannot be cut into blocks.
    """
    # Offsets are multiples of the default alignment here, whatever the file quantized from had.
    metadata = [entry for entry in metadata if entry.key != "general.alignment"]
    # llama.cpp's quantizer goes by ggml's tensors, which have no outermost dimension of 1.
    tensors = [replace(tensor, shape=_without_ones(tensor.shape)) for tensor in tensors]
    outputs: list[Output] = []
    for label, file in files.items():
        fitting = _fitting_importance(label, tensors, mixtures[label], importance or {})
        outputs += _outputs(file, label, metadata, tensors, mixtures[label], fitting, max_size)
    return outputs


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return _without_ones(shape[1:]) if len(shape) > 1 and shape[0] == 1 else shape


def _fitting_importance(
    label: str, tensors: Sequence[PlannedTensor], answer: Mixture, importance: Importance
) -> Importance:
    """The importances that are used, after every check of types and imatrix that llama.cpp would make."""
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
                f"{tensor.name}: rows of {tensor.shape[-1]} are no multiple of {kind.label}'s block of {kind.block}",
                hint="choose a type of blocks of 32 for it, such as q8_0",
            )
        if kind is not tensor.outtype:
            _check_importance(tensor, kind, label, fitting)
    if importance and not fitting.keys() & {tensor.name for tensor in tensors}:
        raise QuantizationError(
            f"{label}: the importance matrix has no tensor of this model",
            hint="make the matrix with llama-imatrix from this model",
        )
    return fitting


def _check_importance(
    tensor: PlannedTensor, kind: GGMLType, label: str, importance: dict[str, npt.NDArray[np.float32]]
) -> None:
    """As llama.cpp: an imatrix of another size is an error (for the embedding: ignored), a missing one may be."""
    found = importance.get(tensor.name)
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    if found is not None and found.size != tensor.shape[-1] * experts:
        if tensor.name not in EMBEDDINGS:
            raise QuantizationError(
                f"{tensor.name}: the imatrix has {found.size} columns, the tensor {tensor.shape[-1] * experts}",
                hint="make the matrix with llama-imatrix from this model",
            )
        del importance[tensor.name]
        found = None
    if found is not None:
        return
    needed = kind in _NEED_IMPORTANCE or (kind is GGMLType.Q2_K and label == "q2_k_s")
    if tensor.name in (*EMBEDDINGS, OUTPUT):
        needed = kind in _ENCODER_NEEDS_IMPORTANCE
    if needed:
        why = "the one given does not cover it" if importance else "none is given"
        raise QuantizationError(
            f"{tensor.name}: {kind.label} needs an importance matrix, {why}",
            hint="make the matrix with llama-imatrix from this model on more text, or choose another type for it",
        )


def _layout(tensors: Sequence[PlannedTensor], types: Mapping[str, GGMLType]) -> tuple[list[TensorInfo], int]:
    """Offsets in the data section, and its size."""
    infos, offset = [], 0
    for tensor in tensors:
        if len(tensor.name.encode()) > _MAX_NAME:
            raise OutputError(f"tensor name {tensor.name!r} is longer than {_MAX_NAME} bytes, GGUF's limit")
        infos.append(TensorInfo(tensor.name, tensor.shape, types[tensor.name], offset))
        offset += align(types[tensor.name].nbytes(tensor.shape))
    return infos, offset


def _outputs(
    file: str,
    label: str,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    mixture: Mixture,
    importance: Importance,
    max_size: int | None,
) -> list[Output]:
    metadata = with_file_type(metadata, FTYPES[label])
    parts = list(pack(tensors, lambda tensor: mixture.types[tensor.name].nbytes(tensor.shape), max_size)) or [[]]
    if len(parts) == 1:
        return [_output(file, label, metadata, parts[0], mixture, importance)]
    if len(parts) > _MAX_PARTS:
        raise OutputError(f"{file}: would be {len(parts)} parts, GGUF has room for {_MAX_PARTS}")
    outputs = []
    for number, part in enumerate(parts):
        split = [u16(SPLIT_NO, number), u16(SPLIT_COUNT, len(parts)), i32(SPLIT_TENSORS, len(tensors))]
        entries = [*metadata, *split] if number == 0 else split
        name = part_name(PurePath(file).stem, number, len(parts))
        outputs.append(_output(name, label, entries, part, mixture, importance))
    return outputs


def _output(
    file: str,
    label: str,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    mixture: Mixture,
    importance: Importance,
) -> Output:
    infos, size = _layout(tensors, mixture.types)
    header = encode_header(metadata, infos)
    placed = {
        info.name: TensorSlot(
            info.type, len(header) + info.offset, info.type.nbytes(info.shape), mixture.reasons.get(info.name, "")
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
