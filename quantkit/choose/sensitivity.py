"""What an error of a tensor costs: the divergence of the model's answers for the error of the layer's output.

For small errors the divergence is a quadratic form of what changes in the logits, so it is proportional to the squared
error of a layer's output, and those of different tensors, which have nothing to do with each other, add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from quantkit.choose.candidates import probe
from quantkit.choose.digits import rounded
from quantkit.choose.errors import TensorErrors
from quantkit.choose.groups import groups
from quantkit.ggml.types import GGMLType
from quantkit.plan.values import PlannedTensor

# Sensitivities are kept with so many digits: other devices give others after the fourth, and a choice hardly changes
# with the second.
DIGITS = 2


def measure_sensitivities(
    tensors: Sequence[PlannedTensor],
    errors: Mapping[str, TensorErrors],
    divergence: Callable[[Mapping[PlannedTensor, GGMLType]], float],
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[dict[str, float], int]:
    """Divergence for an error of 1 of each tensor, by name, in nats; and the number of evaluations.

    Args:
        tensors: the tensors that can be quantized.
        errors: their errors, by name.
        divergence: evaluates the model with some tensors in some types and the others unquantized.
        progress: called with 1 after each evaluation.
    """
    planned = {tensor.name: tensor for tensor in tensors}
    found: dict[str, float] = {}
    measured = groups([tensor.name for tensor in tensors])
    for names in measured:
        types = {name: probe(errors[name].by_type) for name in names}
        altered = {planned[name]: kind for name, kind in types.items() if kind is not None}
        lost = sum(errors[tensor.name].by_type[kind] for tensor, kind in altered.items())
        one = rounded(max(0.0, divergence(altered)) / lost, DIGITS) if lost else 0.0
        found |= dict.fromkeys(names, one)
        progress(1)
    return found, len(measured)
