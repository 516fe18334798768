"""llama.cpp's own types: what their mixtures are for a model, as a measure of a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantkit.choose.search import Found, Measured, padded
from quantkit.gguf.kv import KV
from quantkit.plan.choice import Compared
from quantkit.plan.gguf_outputs import choose_mixtures
from quantkit.plan.mixture import Importance, Mixture
from quantkit.plan.values import PlannedTensor

# Without those of 1 bit, and q2_k_s, which asks for more importances than its tensors need.
LABELS = (
    "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "q2_k", "iq3_xxs", "iq3_xs", "q3_k_s", "iq3_s", "iq3_m", "q3_k_m", "q3_k_l",
    "iq4_xs", "iq4_nl", "q4_0", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "q8_0",
)  # fmt: skip
# What can be quantized at all is what this mixture quantizes.
WIDEST = "q8_0"


def llama_mixtures(
    metadata: Sequence[KV], tensors: Sequence[PlannedTensor], importance: Importance
) -> dict[str, Mixture]:
    """llama.cpp's mixtures that are possible with these importances, by name."""
    found = choose_mixtures(LABELS, metadata, tensors, importance)
    return {label: mixture for label, mixture in found.items() if importance or not mixture.needs_importance}


def quantizable(tensors: Sequence[PlannedTensor], mixtures: Mapping[str, Mixture]) -> tuple[PlannedTensor, ...]:
    """The tensors that llama.cpp quantizes."""
    widest = mixtures[WIDEST].types
    return tuple(tensor for tensor in tensors if widest[tensor.name] is not tensor.outtype)


def file_size(mixture: Mixture, tensors: Sequence[PlannedTensor], beside: int) -> int:
    """Bytes of the file with a mixture.

    Args:
        mixture: the types.
        tensors: the tensors that can be quantized.
        beside: bytes of the file besides these.
    """
    return beside + sum(padded(tensor, mixture.types[tensor.name]) for tensor in tensors)


def nearest(found: Found, mixtures: Mapping[str, Mixture], measured: Measured) -> str:
    """The type whose file is nearest in size."""
    sizes = {label: file_size(mixture, measured.tensors, measured.beside) for label, mixture in mixtures.items()}
    return min(sizes, key=lambda label: (abs(sizes[label] - found.nbytes), label))


def compared(nbytes: int, mixtures: Mapping[str, Mixture], measured: Measured) -> Compared | None:
    """The best of llama.cpp's types that are no larger; None if there is none whose errors are known."""
    known = []
    for label, mixture in mixtures.items():
        size, kl = file_size(mixture, measured.tensors, measured.beside), measured.predicted(mixture.types)
        if size <= nbytes and kl is not None:
            known.append(Compared(label, size, kl))
    return min(known, key=lambda one: one.predicted_kl, default=None)
