"""Notes for the user about the chosen types, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantkit.ggml.types import UNQUANTIZED
from quantkit.gguf.header import OUTPUT
from quantkit.plan.mixture import FALLBACK
from quantkit.plan.type_choices import EMBEDDINGS, TypeChoices
from quantkit.plan.values import Output, PlannedTensor, by_model


def quantization_notes(
    outputs: Sequence[Output], tensors: Sequence[PlannedTensor], choices: TypeChoices
) -> Iterator[str]:
    """The notes about quantized outputs.

    Args:
        outputs: the quantized outputs, with all parts of a split one.
        tensors: the planned tensors.
        choices: types for single tensors.
    """
    planned = {tensor.name: tensor for tensor in tensors}
    for parts in by_model(outputs):
        label, importance = parts[0].label, parts[0].importance
        slots = {name: slot for part in parts for name, slot in part.tensors.items()}
        fallen = [(name, slot) for name, slot in slots.items() if slot.reason.endswith(FALLBACK)]
        if fallen:
            name, slot = fallen[0]
            yield (
                f"{label}: {len(fallen)} of {len(slots)} tensors do not have the requested type, "
                f"such as {name} ({slot.type.label}): {slot.reason}"
            )
        encoded = [name for name, slot in slots.items() if slot.type is not planned[name].outtype]
        # llama-imatrix never covers these two, and their encoders work well without it.
        bare = [name for name in encoded if name not in importance and name not in (*EMBEDDINGS, OUTPUT)]
        if importance and bare:
            yield (
                f"{label}: the importance matrix does not cover {len(bare)} of {len(encoded)} quantized tensors, "
                f"such as {bare[0]}: these are encoded without it"
            )
        again = [name for name in encoded if planned[name].outtype not in UNQUANTIZED.values()]
        if again:
            yield (
                f"{label}: {len(again)} tensors are already quantized, such as {again[0]} "
                f"({planned[again[0]].outtype.label}): the quality is lower than from an f16 file"
            )
        if label in UNQUANTIZED and choices.tensors:
            yield f"{label}: --tensor-type has no effect; it only applies to quantized types, as in llama-quantize"
