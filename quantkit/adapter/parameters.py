"""LoRA on parameters (``target_parameters``): on the experts that transformers 5 keeps as one parameter per layer.

Checkpoints have one matrix per expert. transformers 5 loads them stacked, the gate's rows above the up's rows. PEFT
puts LoRA on the stack since version 0.19 if it is named, or if ``target_modules`` names an expert's projections. The
router is then a parameter of its own module. gpt-oss, Llama 4 and Gemma 4 have the stacks in their checkpoints too. A
closed table says which tensors such a parameter consists of; LoRA on any other parameter is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.adapter.config import named_by
from quantkit.adapter.hints import BASE_HINT, MERGE_HINT
from quantkit.arch.stacked_experts import loaded_as
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError

# By the mixture's name in checkpoints, the names of an expert's gate, up and down matrices; without a gate, of the two.
_MIXTURES = {
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "block_sparse_moe": ("w1", "w3", "w2"),
    "feed_forward": ("w1", "w3", "w2"),
    "mixer": ("up_proj", "down_proj"),
}
_EXPERT = re.compile(rf"(?P<layer>.+)\.(?P<mixture>{'|'.join(_MIXTURES)})\.experts\.(?P<expert>\d+)\.[^.]+\.weight")
_STACK = re.compile(r".+\.experts\.(gate_up_proj|down_proj)")
# Granite's mixtures have the stacks under other names in checkpoints.
_GRANITE = {"input_linear": "gate_up_proj", "output_linear": "down_proj"}
_GRANITES = re.compile(rf"(?P<mixture>.+\.block_sparse_moe)\.(?P<kind>{'|'.join(_GRANITE)})\.weight")
# Settings that PEFT itself does not combine with LoRA on parameters.
_NEVER_WITH = ("use_dora", "lora_bias", "fan_in_fan_out")
# Before this version PEFT stored the factors of the transposed experts.
_LAYOUT_SINCE = (0, 19)


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model that was trained.

    Attributes:
        name: its name in that model.
        experts: by expert, the checkpoint's tensors that are stacked in it, from the top down; of a stack that is one
            tensor of the checkpoint, empty.
        stack: the name of that tensor.
    """

    name: str
    experts: tuple[tuple[str, ...], ...]
    stack: str = ""


def trained_parameters(path: Path, config: Mapping[str, Any], base: Mapping[str, TensorSpec]) -> dict[str, Parameter]:
    """The parameters that ``target_parameters`` names, by the module under which the adapter file has their factors.

    PEFT wraps a module again for each of its parameters, so the factors of the first are in ``base_layer``.

    Args:
        path: the adapter's folder, for errors.
        config: ``adapter_config.json``, checked.
        base: the base's tensors.

    Raises:
        AdapterError: a parameter is not that of experts or a router, or PEFT does not support a setting for parameters.
    """
    targets, where = config.get("target_parameters") or (), path / "adapter_config.json"
    if not targets:
        return {}
    for key in _NEVER_WITH:
        if config.get(key):
            raise AdapterError(
                f"{where}: {key} and target_parameters are set, which PEFT does not support", hint=MERGE_HINT
            )
    known = {parameter.name: parameter for parameter in _parameters(base)}
    parts = {name for parameter in known.values() for stacked in parameter.experts for name in stacked}
    parts |= {parameter.stack for parameter in known.values()}
    others = [name for name in base if name not in parts]
    for target in targets:
        other = next((name for name in others if named_by([target], name)), None)
        if other is None and not any(named_by([target], name) for name in known):
            raise AdapterError(
                f"{where}: target_parameters names {target!r}, which the base model does not have", hint=BASE_HINT
            )
        if other is not None:
            raise AdapterError(
                f"{where}: target_parameters names {other!r}, but LoRA on parameters is supported only for "
                "experts.gate_up_proj, experts.down_proj and gate.weight of a mixture of experts",
                hint=MERGE_HINT,
            )
    by_module: dict[str, list[Parameter]] = {}
    for name, parameter in known.items():
        if named_by(targets, name):
            by_module.setdefault(name.rpartition(".")[0], []).append(parameter)
    return {
        module + ".base_layer" * depth: parameter
        for module, wrapped in by_module.items()
        for depth, parameter in enumerate(reversed(wrapped))
    }


def is_transposed(config: Mapping[str, Any]) -> bool | None:
    """Whether the PEFT version that saved the adapter stored the factors of the transposed experts; None: unknown."""
    match = re.match(r"(\d+)\.(\d+)", str(config.get("peft_version")))
    return (int(match[1]), int(match[2])) < _LAYOUT_SINCE if match else None


def _parameters(base: Mapping[str, TensorSpec]) -> Iterator[Parameter]:
    """The parameters that transformers makes of the experts of *base*, in the order of their module."""
    experts: dict[tuple[str, str], set[str]] = {}
    for name in base:
        if match := _EXPERT.fullmatch(name):
            experts.setdefault((match["layer"], match["mixture"]), set()).add(match["expert"])
    for (layer, mixture), found in experts.items():
        *first, down = _MIXTURES[mixture]
        stored, loaded = f"{layer}.{mixture}", f"{layer}.{loaded_as(mixture)}"
        modules = [f"{stored}.experts.{expert}" for expert in range(len(found))]
        yield Parameter(
            f"{loaded}.experts.{'gate_up' if len(first) > 1 else 'up'}_proj",
            tuple(tuple(f"{m}.{name}.weight" for name in first) for m in modules),
        )
        yield Parameter(f"{loaded}.experts.down_proj", tuple((f"{m}.{down}.weight",) for m in modules))
        yield Parameter(f"{loaded}.gate.weight", ((f"{stored}.gate.weight",),))
    stacks = {_loaded_stack(name): name for name, spec in base.items() if len(spec.shape) == 3}
    for loaded in sorted(stacks, key=lambda name: name.endswith("down_proj")):
        if _STACK.fullmatch(loaded):
            yield Parameter(loaded, (), stacks[loaded])


def _loaded_stack(name: str) -> str:
    """The name that transformers has for a tensor of a checkpoint that may be a stack of experts."""
    match = _GRANITES.fullmatch(name)
    return f"{match['mixture']}.experts.{_GRANITE[match['kind']]}" if match else name
