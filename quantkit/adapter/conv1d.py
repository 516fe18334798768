"""Layers that store their weight transposed, [in, out]: Conv1D of GPT-2 and models derived from it.

PEFT stores LoRA on them as on any Linear layer, so the product of the factors is transposed before it is added. No
supported family has such layers, but a model that is only merged may. PEFT records them in ``fan_in_fan_out``, but
resets it when a Linear layer comes after them, so a table names the transformers models that have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.adapter.changes import Change, LowRank
from quantkit.adapter.config import method
from quantkit.adapter.hints import MERGE_HINT
from quantkit.adapter.resized import has_row_for_each_token
from quantkit.arch.families import is_supported
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError

_MODELS = ("decision_transformer", "gpt2", "imagegpt", "openai-gpt")
_LAYERS = ("c_attn", "c_fc", "c_proj", "q_attn")
# What follows a module's path in the keys of tensors that were trained in full.
_COPIES = ("weight", "bias", "base_layer", "modules_to_save", "original_module")


def conv1d_weights(
    config: Mapping[str, Any], model: Mapping[str, Any], base: Mapping[str, TensorSpec]
) -> frozenset[str]:
    """The base's tensors that are stored [in, out].

    Args:
        config: ``adapter_config.json``, checked.
        model: ``config.json`` of the base.
        base: its tensors.
    """
    if is_supported(model):
        return frozenset()
    matrices = [name for name, spec in base.items() if len(spec.shape) == 2 and name.endswith(".weight")]
    if model.get("model_type") in _MODELS:
        return frozenset(name for name in matrices if name.split(".")[-2] in _LAYERS)
    if config.get("fan_in_fan_out"):
        return frozenset(name for name in matrices if not has_row_for_each_token(name))
    return frozenset()


def as_linear(base: Mapping[str, TensorSpec], conv1d: frozenset[str]) -> Mapping[str, TensorSpec]:
    """The base's tensors in the shapes that LoRA sees, [out, in]."""
    return {**base, **{name: replace(base[name], shape=base[name].shape[::-1]) for name in conv1d}}


def refuse_other_methods(
    path: Path, config: Mapping[str, Any], bare: Mapping[str, str], conv1d: frozenset[str]
) -> None:
    """Check that a method other than LoRA has no tensors for Conv1D layers.

    Raises:
        AdapterError: it has one.
    """
    for plain in bare.values():
        parts = plain.split(".")
        for count in range(1, len(parts)):
            name = ".".join((*parts[:count], "weight"))
            if name in conv1d and parts[count] not in _COPIES:
                raise _not_supported(path, name, method(config))


def turn(path: Path, changes: Mapping[str, Sequence[Change]], conv1d: frozenset[str]) -> dict[str, list[Change]]:
    """The changes, with LoRA on Conv1D weights transposed to [in, out].

    Raises:
        AdapterError: DoRA was trained on a Conv1D layer.
    """
    turned = {name: list(ops) for name, ops in changes.items()}
    for name in conv1d & changes.keys():
        if any(isinstance(change, LowRank) and change.magnitude for change in changes[name]):
            raise _not_supported(path, name, "DoRA")
        turned[name] = [_turned(change) for change in changes[name]]
    return turned


def _not_supported(path: Path, name: str, what: str) -> AdapterError:
    return AdapterError(
        f"{path}: {name!r} is the weight of a Conv1D layer, stored [in, out]: {what} is not supported on such layers",
        hint=MERGE_HINT,
    )


def _turned(change: Change) -> Change:
    if not isinstance(change, LowRank):
        return change
    return replace(change, rows=change.cols, cols=change.rows, transposed=True)
