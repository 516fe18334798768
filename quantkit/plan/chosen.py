"""The file whose types were chosen for its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantkit.errors import QuantizationError
from quantkit.gguf.kv import KV
from quantkit.plan.choice import Choice
from quantkit.plan.gguf_outputs import choose_mixtures, quantized_outputs
from quantkit.plan.mixture import Importance, Mixture
from quantkit.plan.type_choices import parse_choices
from quantkit.plan.values import Output, PlannedTensor, file_name


def chosen_outputs(
    name: str,
    choice: Choice,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    importance: Importance,
) -> tuple[Output, ...]:
    """The file of a choice, planned as the choice's ``--quant`` and ``--tensor-type`` options would.

    Raises:
        QuantizationError: llama.cpp gives a tensor another type than the choice.
    """
    choices = parse_choices(tensor_types=choice.tensor_types)
    mixture = choose_mixtures([choice.quant], metadata, tensors, importance, choices)[choice.quant]
    for tensor in choice.tensors:
        if mixture.types[tensor.name].label != tensor.type:
            raise QuantizationError(
                f"{tensor.name}: {tensor.type} was chosen, and llama.cpp makes it {mixture.types[tensor.name].label}",
                hint="install the tested version: pip install 'llama-cpp-python==0.3.36'",
            )
    reasons = dict(mixture.reasons) | {tensor.name: tensor.reason for tensor in choice.tensors}
    made = quantized_outputs(
        {choice.quant: file_name(name, choice.label)},
        metadata,
        tensors,
        {choice.quant: Mixture(mixture.types, reasons, mixture.needs_importance)},
        importance,
    )
    return tuple(replace(output, label=choice.label) for output in made)
