"""The types that a tensor may have."""

from __future__ import annotations

from collections.abc import Collection

from quantkit.ggml.types import GGMLType
from quantkit.plan.gguf_outputs import needs_importance
from quantkit.plan.values import PlannedTensor

# By bits a weight. For rows of 256 weights the types with blocks of 32 lose more at their sizes than these, but for
# q8_0; the ternary types and iq1 lose more than can be told from a model's answers.
_SUPER_BLOCKS = (
    GGMLType.IQ2_XXS, GGMLType.IQ2_XS, GGMLType.IQ2_S, GGMLType.Q2_K, GGMLType.IQ3_XXS, GGMLType.IQ3_S, GGMLType.Q3_K,
    GGMLType.IQ4_XS, GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K, GGMLType.Q8_0,
)  # fmt: skip
_BLOCKS = (GGMLType.Q4_0, GGMLType.IQ4_NL, GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1, GGMLType.Q8_0)
# A tensor is measured in the first of these that it can have: coarse enough to be seen, fine enough that errors add.
_PROBES = (GGMLType.Q3_K, GGMLType.Q4_0)


def candidates(tensor: PlannedTensor, importance: Collection[str]) -> tuple[GGMLType, ...]:
    """The types to choose from, the tensor's outtype last.

    Args:
        tensor: a tensor that llama.cpp quantizes.
        importance: the names of the tensors that have an importance.
    """
    if tensor.blocks:  # encoded again only where that is asked for by name
        return (tensor.outtype,)
    quantized = _SUPER_BLOCKS if tensor.columns % GGMLType.Q4_K.block == 0 else _BLOCKS
    fitting = (kind for kind in quantized if tensor.columns % kind.block == 0)
    weighted = tensor.name in importance
    return (*(kind for kind in fitting if weighted or not needs_importance(tensor.name, kind)), tensor.outtype)


def probe(types: Collection[GGMLType]) -> GGMLType | None:
    """The type in which a tensor is measured; None for one that cannot be quantized."""
    return next((kind for kind in _PROBES if kind in types), None)
