"""Runs a transformers model whose weights are loaded one layer at a time.

The running model has placeholders for weights: a zero that is stretched to a weight's shape and takes no memory, on
the device of the weights, because PEFT puts an adapter's tensors where the base's are. A hook before each layer loads
the layer's weights, a hook after it drops them. transformers' own loader converts them (names, stacked experts) into a
second model without weights, from which the running one takes them: PEFT may have changed the running one's names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig

from quantkit.errors import CheckpointError
from quantkit.prove.weights import Weights

# What PEFT puts into the path of a parameter of the base.
_WRAPPERS = re.compile(r"\.(base_layer|token_adapter)(?=\.)")
# PEFT's copy of a module that was trained in full runs in its place.
_REPLACED = ".original_module."


# Of a parameter: its name in the plain model, its path in the running one, and its placeholder there.
Place = tuple[str, str, nn.Parameter]


class Loader:
    """Loads the weights of one unit (a decoder layer, or another module with weights of its own) at a time.

    Args:
        plain: the model on the meta device, without adapters.
        weights: the checkpoint's tensors.
        device: where the weights go.
    """

    def __init__(self, plain: Any, weights: Weights, device: torch.device) -> None:
        self._plain, self._weights = plain, weights
        mapping = get_model_conversion_mapping(plain)
        self._config = LoadStateDictConfig(dtype=torch.float32, device_map={"": str(device)}, weight_mapping=mapping)
        self._empty = dict(plain.named_parameters(remove_duplicate=False))
        self._units = {name: _unit(plain, name) for name in self._empty}
        self._saved = {name: buffer for name, buffer in plain.named_buffers() if name in plain.state_dict()}
        self._saved_keys: list[str] = []
        self._keys = self._keys_by_unit(mapping)
        self._stored_in = self._tied(plain)

    def _keys_by_unit(self, mapping: Sequence[Any]) -> dict[str, list[str]]:
        """The names of the checkpoint's tensors, by the unit that they belong to."""
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        state, prefix = self._plain.state_dict(), self._plain.base_model_prefix
        keys = defaultdict(list)
        self._found: set[str] = set()
        for key in self._weights.names:
            target, _ = rename_source_key(key, renamings, converters, prefix, state)
            if target not in state:
                target = key if key in state else target
            if target in self._units:
                keys[self._units[target]].append(key)
                self._found.add(target)
            elif target in self._saved:
                self._saved_keys.append(key)
        return keys

    def _tied(self, plain: Any) -> dict[str, str]:
        """By parameter that the checkpoint does not have: the one it is tied to, which the checkpoint has."""
        tied = {}
        for target, source in plain.all_tied_weights_keys.items():
            for missing, other in ((target, source), (source, target)):
                if missing not in self._found and other in self._found:
                    tied[missing] = other
        return tied

    def attach(self, running: nn.Module) -> None:
        """Give *running*, the same modules with PEFT's wrappers, its weights when they are needed."""
        places = defaultdict(list)
        for path, parameter in running.named_parameters(remove_duplicate=False):
            name = _WRAPPERS.sub("", path)
            # What has values already is the adapter's own, such as biases trained in place.
            if _is_placeholder(parameter) and _REPLACED not in path and name in self._units:
                places[self._units[name]].append((name, path, parameter))
        for unit, found in places.items():
            module = running.get_submodule(unit)
            module.register_forward_pre_hook(self._before(running, unit, found), prepend=True)
            module.register_forward_hook(self._after(running, found), always_call=True)
        self._load_buffers(running)

    def _load_buffers(self, running: nn.Module) -> None:
        """Give *running* the buffers that the checkpoint has, such as a router's biases: they are small, and stay.

        Raises:
            CheckpointError: the checkpoint lacks one.
        """
        with self._weights.some(self._saved_keys) as state:
            convert_and_load_state_dict_in_model(self._plain, state, self._config)
        for path, _ in list(running.named_buffers()):
            name = _WRAPPERS.sub("", path)
            if name not in self._saved:
                continue
            loaded = self._plain.get_buffer(name)
            if loaded.is_meta:
                raise CheckpointError(
                    f"transformers cannot load {name}: there is no tensor for it",
                    hint="config.json and weights are from different models: use both from the same saved folder",
                )
            _put_buffer(running, path, loaded)
        for name, empty in self._saved.items():
            _put_buffer(self._plain, name, empty)

    def _before(self, running: nn.Module, unit: str, places: Sequence[Place]) -> Callable[..., None]:
        def load(module: nn.Module, args: object) -> None:
            names = {name: self._stored_in.get(name, name) for name, _, _ in places}
            loaded = self._load({self._units[name] for name in (*names.values(),)} | {unit})
            for name, path, _ in places:
                _put(running, path, loaded[names[name]])

        return load

    def _after(self, running: nn.Module, places: Sequence[Place]) -> Callable[..., None]:
        def drop(module: nn.Module, args: object, output: object) -> None:
            for _, path, placeholder in places:
                _put(running, path, placeholder)

        return drop

    def _load(self, units: set[str]) -> dict[str, nn.Parameter]:
        """The parameters of some units, by their names in the plain model, which is left without them."""
        with self._weights.some(key for unit in units for key in self._keys[unit]) as state:
            info, _ = convert_and_load_state_dict_in_model(self._plain, state, self._config)
        names = [name for name, unit in self._units.items() if unit in units]
        loaded = {name: self._plain.get_parameter(name) for name in names}
        for name in names:
            _put(self._plain, name, self._empty[name])
        missing = [name for name in names if loaded[name].is_meta and name not in self._stored_in]
        wrong = [f"{name} (no tensor for it)" for name in missing]
        wrong += [f"{name}: {list(got)}, expected {list(want)}" for name, got, want in info.mismatched_keys]
        wrong += [f"{name}: {why}" for name, why in info.conversion_errors.items()]
        if wrong:
            raise CheckpointError(
                f"transformers cannot load the weights of {sorted(units)[0]}: {wrong[0]}",
                hint="config.json and weights are from different models: use both from the same saved folder",
            )
        return loaded


def put_placeholders(model: nn.Module, device: torch.device) -> None:
    """Put a placeholder in the place of every parameter of a model on the meta device."""
    for path, parameter in list(model.named_parameters(remove_duplicate=False)):
        stretched = torch.zeros((), device=device).expand(parameter.shape)
        _put(model, path, nn.Parameter(stretched, requires_grad=False))


def _is_placeholder(parameter: nn.Parameter) -> bool:
    return not any(parameter.stride())


def fill_buffers(model: Any, device: torch.device) -> None:
    """Compute the buffers that no checkpoint has (rotary frequencies, scales) of a model on the meta device."""
    filled: dict[str, None] = {}
    for path, buffer in list(model.named_buffers(remove_duplicate=False)):
        if buffer.is_meta:
            _put_buffer(model, path, torch.empty_like(buffer, device=device))
            parts = path.split(".")[:-1]
            # Some modules fill the buffers of those within them.
            filled |= dict.fromkeys(".".join(parts[:end]) for end in range(len(parts) + 1))
    if not hasattr(model.config, "initializer_range"):  # classes that also see read it here, and have it in text_config
        model.config.initializer_range = model.config.get_text_config().initializer_range
    for path in filled:
        _owner(model, path)._init_weights(model.get_submodule(path))


def _owner(model: Any, path: str) -> Any:
    """The innermost model around a module, or it itself: transformers has each model fill what is in it."""
    parts = path.split(".") if path else []
    around = (model.get_submodule(".".join(parts[:end])) for end in range(len(parts), -1, -1))
    return next(module for module in around if hasattr(module, "_init_weights"))


def _unit(model: nn.Module, parameter: str) -> str:
    """The module whose weights are loaded at once: the outermost entry of a list of layers, or the parameter's own."""
    parts = parameter.split(".")
    for end in range(1, len(parts) - 1):
        if isinstance(model.get_submodule(".".join(parts[:end])), nn.ModuleList):
            return ".".join(parts[: end + 1])
    return ".".join(parts[:-1])


def _put(model: nn.Module, path: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = path.rpartition(".")
    model.get_submodule(owner)._parameters[leaf] = parameter


def _put_buffer(model: nn.Module, path: str, buffer: torch.Tensor) -> None:
    owner, _, leaf = path.rpartition(".")
    model.get_submodule(owner)._buffers[leaf] = buffer
