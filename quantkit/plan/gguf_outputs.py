"""The plan's GGUF files: types, offsets and headers, for the unquantized file and for every quantized one.

A file may be split into parts of a maximum size, as in llama.cpp's converter: the first part has all metadata, each
part has its number and the number of parts, and llama.cpp finds the others by their names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from quantkit.errors import OutputError, QuantizationError
from quantkit.ggml.types import FTYPES, NEEDS_IMPORTANCE, UNQUANTIZED, GGMLType
from quantkit.gguf.header import MAX_NAME, OUTPUT, TensorInfo, align, encode_header
from quantkit.gguf.kv import KV, i32, u16, u32
from quantkit.gguf.split import SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, part_name
from quantkit.plan.imatrix import not_evaluated
from quantkit.plan.mixture import KEPT, Importance, Mixture, ask_llama_cpp
from quantkit.plan.packing import pack
from quantkit.plan.type_choices import EMBEDDINGS, NO_CHOICES, TypeChoices
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

GGML_QUANT_VERSION = 2
# Types that llama.cpp refuses without an imatrix because they are so small (tensor_requires_imatrix).
_NEED_IMPORTANCE = frozenset(
    [GGMLType.IQ3_XXS, GGMLType.IQ2_XXS, GGMLType.IQ2_XS, GGMLType.IQ2_S, GGMLType.IQ1_M, GGMLType.IQ1_S]
)
_MXFP4 = "mxfp4_moe"
# split.no and split.count are 16 bits wide
_MAX_PARTS = 65535
_MAKE = "make the matrix from this model: quantkit imatrix MODEL -o FILE"


def unquantized_outputs(
    file: str, label: str, metadata: Sequence[KV], tensors: Sequence[PlannedTensor], max_size: int | None = None
) -> list[Output]:
    """The unquantized file, or its parts: every tensor in its outtype.

    Args:
        file: its name.
        label: its outtype: ``f16``, ``bf16`` or ``f32``.
        metadata: the entries of its header.
        tensors: the planned tensors.
        max_size: maximum bytes of weights per part; a larger tensor gets its own part. None for one file.
    """
    types = {tensor.name: tensor.outtype for tensor in tensors}
    reasons = {tensor.name: KEPT for tensor in tensors if tensor.blocks}
    return _outputs(file, label, metadata, tensors, Mixture(types, reasons, False), {}, max_size)


def plain_output(file: str, label: str, metadata: Sequence[KV], tensors: Sequence[PlannedTensor]) -> Output:
    """A file (of an adapter) without a file type in its metadata: every tensor in its outtype."""
    types = {tensor.name: tensor.outtype for tensor in tensors}
    return _output(file, label, metadata, tensors, Mixture(types, {}, False), {})


def typed_output(
    file: str,
    label: str,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    types: Mapping[str, GGMLType],
    importance: Importance,
) -> Output:
    """A file with the metadata of another one and a given type for each tensor.

    Args:
        file: its name.
        label: its type for messages.
        metadata: the entries of its header.
        tensors: the planned tensors.
        types: by tensor name.
        importance: imatrix by tensor name.

    Raises:
        QuantizationError: as :func:`quantized_outputs`.
    """
    metadata = [entry for entry in metadata if entry.key != "general.alignment"]
    mixture = Mixture(types, {}, False)
    return _output(file, label, metadata, tensors, mixture, _fitting_importance(label, tensors, mixture, importance))


def choose_mixtures(
    labels: Collection[str],
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    importance: Importance | None = None,
    choices: TypeChoices = NO_CHOICES,
) -> dict[str, Mixture]:
    """The types of all tensors for each file type, as llama.cpp itself chooses them.

    Args:
        labels: canonical names of the ftypes.
        metadata: metadata of the unquantized file; the vocabulary is not used.
        tensors: the planned tensors.
        importance: imatrix by tensor name.
        choices: types for single tensors.
    """
    if not labels:
        return {}
    bare = [entry for entry in metadata if not entry.key.startswith(("tokenizer.", "general.alignment"))]
    infos, _ = layout(tensors, {tensor.name: tensor.outtype for tensor in tensors})
    kept = {tensor.name for tensor in tensors if tensor.blocks}
    answers = ask_llama_cpp(bare, infos, [FTYPES[label] for label in labels], importance or {}, choices, kept)
    return dict(zip(labels, answers, strict=True))


def quantized_outputs(
    files: Mapping[str, str],
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    mixtures: Mapping[str, Mixture],
    importance: Importance | None = None,
    max_size: int | None = None,
) -> list[Output]:
    """The quantized files; the parts of a split file are consecutive.

    Args:
        files: their names, by canonical name of the ftype.
        metadata: metadata of the unquantized file.
        tensors: the planned tensors.
        mixtures: the types, from :func:`choose_mixtures`.
        importance: imatrix by tensor name.
        max_size: as in :func:`unquantized_outputs`.

    Raises:
        QuantizationError: a type needs an imatrix and has none, or a row is not a multiple of its block.
    """
    # Offsets are multiples of the default alignment here, whatever alignment the source file had.
    metadata = [entry for entry in metadata if entry.key != "general.alignment"]
    # llama.cpp's quantizer works on ggml's tensors, which drop an outermost dimension of 1.
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
    """The importances to use, after all checks of types and imatrix that llama.cpp would make."""
    if answer.needs_importance and not importance:
        raise QuantizationError(
            f"{label} needs an importance matrix (imatrix)",
            hint="pass --imatrix FILE (quantkit imatrix MODEL -o FILE makes it), or choose a type such as q4_k_m",
        )
    fitting, without = dict(importance), not_evaluated(tensors)
    for tensor in tensors:
        kind = answer.types[tensor.name]
        if tensor.shape[-1] % kind.block:
            raise QuantizationError(
                f"{tensor.name}: rows of {tensor.shape[-1]} weights are not a multiple of the block of {kind.label} "
                f"({kind.block} weights)",
                hint="choose a type with blocks of 32 weights for this tensor, such as q8_0",
            )
        if kind is not tensor.outtype:
            _check_importance(tensor, kind, label, fitting, drop=tensor.name.startswith(without))
    if importance and not fitting.keys() & {tensor.name for tensor in tensors}:
        raise QuantizationError(
            f"{label}: the importance matrix has no tensor of this model",
            hint=_MAKE,
        )
    return fitting


def _check_importance(
    tensor: PlannedTensor, kind: GGMLType, label: str, importance: dict[str, npt.NDArray[np.float32]], *, drop: bool
) -> None:
    """Check as llama.cpp: a wrong imatrix size is an error (ignored for the embedding), a missing one may be.

    Args:
        tensor: what is encoded.
        kind: its type.
        label: the type of the file.
        importance: the matrix; what has to be ignored is taken out.
        drop: the tensor is of a layer for multi-token prediction, which no matrix covers.
    """
    found = importance.get(tensor.name)
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    if found is not None and found.size != tensor.shape[-1] * experts:
        if tensor.name not in EMBEDDINGS:
            raise QuantizationError(
                f"{tensor.name}: the imatrix has {found.size} columns, expected {tensor.shape[-1] * experts}",
                hint=_MAKE,
            )
        del importance[tensor.name]
        found = None
    if found is not None:
        return
    if needs_importance(tensor.name, kind) or (
        kind is GGMLType.Q2_K and label == "q2_k_s" and tensor.name not in (*EMBEDDINGS, OUTPUT)
    ):
        why = "but the given one does not cover it" if importance else "but none was given"
        raise QuantizationError(
            f"{tensor.name}: {kind.label} needs an importance matrix, {why}",
            hint="leave out the layers for multi-token prediction, which no text evaluates: --mtp drop"
            if drop
            else f"{_MAKE}, on more text; or choose another type for it",
        )


def needs_importance(name: str, kind: GGMLType) -> bool:
    """Whether llama.cpp refuses to encode a tensor in a type without an importance of that tensor."""
    return kind in (NEEDS_IMPORTANCE if name in (*EMBEDDINGS, OUTPUT) else _NEED_IMPORTANCE)


def layout(tensors: Sequence[PlannedTensor], types: Mapping[str, GGMLType]) -> tuple[list[TensorInfo], int]:
    """The entries of a file's tensor list with their offsets in the data section, and its size."""
    infos, offset = [], 0
    for tensor in tensors:
        if len(tensor.name.encode()) > MAX_NAME:
            raise OutputError(f"tensor name {tensor.name!r} is longer than GGUF's limit of {MAX_NAME} bytes")
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
    metadata = with_file_type(metadata, FTYPES[_MXFP4 if label in UNQUANTIZED and _has_mxfp4(mixture) else label])
    parts = list(pack(tensors, lambda tensor: mixture.types[tensor.name].nbytes(tensor.shape), max_size)) or [[]]
    if len(parts) == 1:
        return [_output(file, label, metadata, parts[0], mixture, importance)]
    if len(parts) > _MAX_PARTS:
        raise OutputError(f"{file}: the model would have {len(parts)} parts; GGUF allows up to {_MAX_PARTS}")
    outputs = []
    for number, part in enumerate(parts):
        split = [u16(SPLIT_NO, number), u16(SPLIT_COUNT, len(parts)), i32(SPLIT_TENSORS, len(tensors))]
        entries = [*metadata, *split] if number == 0 else split
        name = part_name(PurePath(file).stem, number, len(parts))
        outputs.append(_output(name, label, entries, part, mixture, importance))
    return outputs


def _has_mxfp4(mixture: Mixture) -> bool:
    """Whether an unquantized file has tensors that are copied: llama.cpp's converter then says so in its type."""
    return GGMLType.MXFP4 in mixture.types.values()


def _output(
    file: str,
    label: str,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    mixture: Mixture,
    importance: Importance,
) -> Output:
    infos, size = layout(tensors, mixture.types)
    header = encode_header(metadata, infos)
    placed = {
        info.name: TensorSlot(
            info.type, len(header) + info.offset, info.type.nbytes(info.shape), mixture.reasons.get(info.name, "")
        )
        for info in infos
    }
    return Output(file, label, header, len(header) + size, placed, importance)


def with_file_type(metadata: Sequence[KV], ftype: int) -> list[KV]:
    """The metadata with file type and quantization version set; existing entries keep their position."""
    fixed = {
        entry.key: entry
        for entry in (u32("general.file_type", ftype), u32("general.quantization_version", GGML_QUANT_VERSION))
    }
    result = [fixed.pop(entry.key, entry) for entry in metadata]
    return result + list(fixed.values())
