"""What a user should know of the types that were chosen, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantkit.ggml.types import BASE_TYPES
from quantkit.gguf.header import OUTPUT
from quantkit.plan.mixture import FALLBACK
from quantkit.plan.type_choices import EMBEDDINGS, TypeChoices
from quantkit.plan.values import Output, PlannedTensor, by_model


def quantization_notes(
    outputs: Sequence[Output], tensors: Sequence[PlannedTensor], choices: TypeChoices
) -> Iterator[str]:
    """The notes on quantized outputs.

    Args:
        outputs: the quantized ones, every part of a split one.
        tensors: the planned tensors.
        choices: of types for single tensors.
    """
    planned = {tensor.name: tensor for tensor in tensors}
    for parts in by_model(outputs):
        label, importance = parts[0].label, parts[0].importance
        places = {name: place for part in parts for name, place in part.tensors.items()}
        fallen = [(name, place) for name, place in places.items() if place.reason.endswith(FALLBACK)]
        if fallen:
            name, place = fallen[0]
            yield (
                f"{label}: {len(fallen)} of {len(places)} tensors are not in the type asked for, "
                f"such as {name} ({place.type.label}): {place.reason}"
            )
        encoded = [name for name, place in places.items() if place.type is not planned[name].base]
        # llama-imatrix never covers these two, and their encoders do well without.
        bare = [name for name in encoded if name not in importance and name not in (*EMBEDDINGS, OUTPUT)]
        if importance and bare:
            yield (
                f"{label}: the importance matrix does not cover {len(bare)} of {len(encoded)} quantized tensors, "
                f"such as {bare[0]}: they are encoded without"
            )
        again = [name for name in encoded if planned[name].base not in BASE_TYPES.values()]
        if again:
            yield (
                f"{label}: {len(again)} tensors were quantized before, such as {again[0]} "
                f"({planned[again[0]].base.label}): quality is lower than from an f16 file"
            )
        if label in BASE_TYPES and choices.tensors:
            yield f"{label}: --tensor-type changes nothing, it applies to quantized types only, as in llama-quantize"
