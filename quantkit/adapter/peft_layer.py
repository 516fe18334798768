"""Methods other than LoRA, merged by PEFT's own layers: one module at a time, never the whole model.

PEFT has dozens of methods, and each knows best how to merge itself. So PEFT computes the merged weight: quantkit builds
a tree of torch modules that contains only this module, at its path and with the base's float32 weight; PEFT puts its
layer on it, loads the module's tensors and merges. This needs memory for one module, whatever the model's size.

Before that, when the adapter is opened, PEFT says which modules the config targets and, on the meta device, where
tensors have shapes but no values, which tensors each module needs. The file must have exactly these. PEFT itself would
load what it finds and leave the rest at its initial values.

This is the only module that imports PEFT, and with it transformers, and only when an adapter needs it.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantkit.adapter.changes import Change, Module
from quantkit.adapter.config import method, pattern_value
from quantkit.adapter.hints import BASE_HINT, MIXED_UP_HINT, RESAVE_HINT
from quantkit.adapter.module_tree import layer_of, tree_of
from quantkit.checkpoint.dtypes import BF16, Floats, all_finite, bits_of
from quantkit.checkpoint.name_tables import PEFT_PREFIX
from quantkit.checkpoint.tensor_file import TensorFile, TensorSpec
from quantkit.errors import AdapterError

# Methods with projections that all modules share, as large as the largest module needs.
_SIZED_BY_ALL = ("PVERA", "RANDLORA", "VERA")
# Settings that say where a method is applied, or that other code handles.
_PLACES: dict[str, Any] = dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern"))
_ELSEWHERE: dict[str, Any] = {
    **dict.fromkeys(("modules_to_save", "task_type", "auto_mapping", "base_model_name_or_path", "revision")),
    "bias": "none",
    "inference_mode": True,
}
# A path that no model has, for a module that only stands for the largest size.
_LARGEST = "largest_of_all_modules"
# What PEFT raises for settings and tensors that do not fit.
_PEFT_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError),
    *(ValueError, re.error),
)


@dataclass(frozen=True, eq=False)
class PeftLayers:
    """The modules of one adapter that PEFT merges.

    Attributes:
        path: the adapter's folder.
        config: ``adapter_config.json``.
        file: its tensors.
        modules: by path of a module, a table from PEFT's key to the file's key.
        shared: the same table for tensors that all modules share.
        shapes: by path of a module, its weight's shape.
        biased: modules that have a bias.
    """

    path: Path
    config: Mapping[str, Any]
    file: TensorFile
    modules: Mapping[str, Mapping[str, str]]
    shared: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    biased: frozenset[str]

    @classmethod
    def open(
        cls,
        path: Path,
        config: Mapping[str, Any],
        bare: Mapping[str, str],
        file: TensorFile,
        base: Mapping[str, TensorSpec],
    ) -> PeftLayers:
        """Ask PEFT which tensors the adapter needs, and check that the file has them.

        Args:
            path: the adapter's folder.
            config: ``adapter_config.json``, checked.
            bare: by key of the file, the key without PEFT's prefix.
            file: the adapter's tensors.
            base: the base's tensors, by their names in training.

        Raises:
            AdapterError: PEFT is missing, too old or rejects the config, or the file does not have the needed tensors.
        """
        shapes = {name.removesuffix(".weight"): spec.shape for name, spec in base.items() if name.endswith(".weight")}
        with _peft(path, "adapter_config.json"):
            where = _config(config, {"modules_to_save": config.get("modules_to_save")}, path)
            targets = _targets(where, [module for module, shape in shapes.items() if len(shape) < 3])
        if not targets:
            raise AdapterError(
                f"{path}: target_modules in adapter_config.json matches no module of the base model", hint=BASE_HINT
            )
        own, shared = _sort(bare, frozenset(targets))
        for module in targets:
            if module not in own:
                raise AdapterError(
                    f"{path}: target_modules names {module!r}, but its weights are not in the file",
                    hint=RESAVE_HINT,
                )
        biased = frozenset(module for module in targets if f"{module}.bias" in base)
        layers = cls(path, config, file, own, shared, {module: shapes[module] for module in targets}, biased)
        layers._check()
        return layers

    @property
    def keys(self) -> set[str]:
        """The keys of the file whose tensors PEFT merges."""
        return {key for keys in (self.shared, *self.modules.values()) for key in keys.values()}

    def changes(self) -> dict[str, list[Change]]:
        """The changes of all weights and biases, by name in training: some methods change biases too."""
        found: dict[str, list[Change]] = {f"{module}.weight": [Module(module, "weight")] for module in self.modules}
        return found | {f"{module}.bias": [Module(module, "bias")] for module in self.modules if module in self.biased}

    def merge(self, module: str, weight: Floats, bias: Floats | None) -> tuple[Floats, Floats | None]:
        """Merge one module. Not safe for several threads at a time.

        Args:
            module: its path in training.
            weight: float32; overwritten.
            bias: float32, or None where the module has none; overwritten.

        Returns:
            Weight and bias, float32.

        Raises:
            AdapterError: PEFT fails, or the adapter's tensors are not finite.
        """
        state = {key: self._read(name) for key, name in (*self.modules[module].items(), *self.shared.items())}
        self._check_mask(module, state)
        with _peft(self.path, module), torch.no_grad():
            from peft.utils.save_and_load import set_peft_model_state_dict

            model = self._put_on(module, torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias))
            self._check_keys(module, _state(model))
            model.eval()
            set_peft_model_state_dict(model, state)
            layer = model.base_model.model.get_submodule(module)
            layer.merge()
            merged = layer.get_base_layer()
            return merged.weight.data.numpy(), None if bias is None else merged.bias.data.numpy()

    def _put_on(self, module: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        """PEFT's model around a tree with one module; on the meta device if *weight* is there."""
        from peft import PeftModel

        layers = {module: layer_of(module, weight, bias)}
        if method(self.config) in _SIZED_BY_ALL:
            rows, columns = (max(sizes) for sizes in zip(*self.shapes.values(), strict=True))
            layers[_LARGEST] = layer_of(_LARGEST, torch.zeros(1, device=weight.device).expand(rows, columns), None)
        targets = "|".join(map(re.escape, layers))
        config = _config(self.config, {**_PLACES, "target_modules": targets}, self.path, module, meta=weight.is_meta)
        return PeftModel(tree_of(layers), config, low_cpu_mem_usage=weight.is_meta)

    def _check(self) -> None:
        """Check the file against what PEFT needs, which is the same for all modules of a kind."""
        demanded: dict[object, dict[str, tuple[int, ...]]] = {}
        for module in self.modules:
            prefix = f"{PEFT_PREFIX}{module}."
            with _peft(self.path, module):
                kind = self._kind(module)
                if kind not in demanded:
                    weight = torch.empty(self.shapes[module], device="meta")
                    bias = torch.empty(self.shapes[module][0], device="meta") if module in self.biased else None
                    state = _state(self._put_on(module, weight, bias))
                    demanded[kind] = {key.replace(prefix, "{}"): shape for key, shape in state.items()}
            expected = {key.replace("{}", prefix): shape for key, shape in demanded[kind].items()}
            self._check_keys(module, expected)

    def _kind(self, module: str) -> object:
        """A value that is equal for modules that need the same tensors. AdaLoRA has a rank per module."""
        if method(self.config) == "ADALORA":
            return module
        patterns = [value for key, value in self.config.items() if key.endswith("_pattern") and isinstance(value, dict)]
        chosen = tuple(str(pattern_value(pattern, module, None)) for pattern in patterns)
        return module.rpartition(".")[2], self.shapes[module], module in self.biased, chosen

    def _check_keys(self, module: str, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Check that the file has what PEFT expects, and nothing else."""
        given = {**self.modules[module], **self.shared}
        expected = {key: shape for key, shape in expected.items() if not key.startswith(PEFT_PREFIX + _LARGEST)}
        for key in sorted(expected.keys() - given.keys()):
            raise AdapterError(f"{self.path}: tensor {key!r} is not in the file", hint=RESAVE_HINT)
        for key in sorted(given.keys() - expected.keys()):
            raise AdapterError(
                f"{self.path}: unexpected tensor {given[key]!r} in this {method(self.config)} adapter",
                hint=MIXED_UP_HINT,
            )
        for key, shape in expected.items():
            found = self.file.specs[given[key]].shape
            if found != shape:
                raise AdapterError(
                    f"{self.path}: {given[key]!r} has shape {list(found)}; with this base model, adapter_config.json "
                    f"needs {list(shape)}",
                    hint=BASE_HINT,
                )

    def _read(self, key: str) -> torch.Tensor:
        values = self.file.read(key).reshape(self.file.specs[key].shape)
        if not all_finite(values):
            raise AdapterError(
                f"{self.path}: tensor {key!r} has NaN or infinite values",
                hint="the training diverged: use an earlier checkpoint of the adapter",
            )
        if values.dtype == BF16:
            return torch.from_numpy(bits_of(values).view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)

    def _check_mask(self, module: str, state: Mapping[str, torch.Tensor]) -> None:
        """Check that SHiRA's indices lie inside the weight: PEFT passes them to torch unchecked."""
        for key, places in state.items():
            if key.endswith(".shira_indices"):
                size = torch.tensor(self.shapes[module]).unsqueeze(1)
                if not ((places >= 0) & (places < size)).all():
                    raise AdapterError(f"{self.path}: {key!r} has indices outside of {list(self.shapes[module])}")


@contextmanager
def _peft(path: Path, where: str) -> Iterator[None]:
    """Run PEFT: hide its warnings, because the checks here are stricter, and turn its errors into AdapterError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _PEFT_ERRORS as error:
        words = " ".join(str(error).split())[:200]
        raise AdapterError(
            f"{path}: PEFT rejects {where}: {type(error).__name__}: {words}",
            hint="load the adapter with the PEFT version that saved it, and save it again",
        ) from None


def _config(
    config: Mapping[str, Any], changed: Mapping[str, Any], path: Path, only: str = "", *, meta: bool = False
) -> Any:
    """PEFT's config object for the adapter, or for one module *only*, with some settings *changed*."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = method(config)
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise AdapterError(f"{path}: the installed PEFT does not support {kind}", hint="pip install -U peft")
    cls = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(cls)}
    settings = cls.check_kwargs(**{**config, "peft_type": kind})
    for key, value in settings.items():
        if key not in known and value:
            raise AdapterError(
                f"{path / 'adapter_config.json'}: the installed PEFT does not know the setting {key}",
                hint="pip install -U peft",
            )
    settings |= {**_ELSEWHERE, **changed}
    if kind == "SHIRA":  # its mask is in the file; without this PEFT would first draw a random one
        settings["mask_type"] = "of the file"
    if kind == "ADALORA" and only and settings.get("rank_pattern"):  # the ranks that were kept, by module name
        kept = {name: ranks for name, ranks in settings["rank_pattern"].items() if name.rpartition(".lora_")[0] == only}
        settings["rank_pattern"] = kept or None
        if kept and meta:  # without values nothing can be cut out, so the module starts with this rank
            settings |= {"rank_pattern": None, "init_r": sum(map(sum, kept.values()))}
    return cls(**{key: value for key, value in settings.items() if key in known})


def _targets(config: Any, modules: Iterable[str]) -> list[str]:
    """The modules that PEFT would apply the method to."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    return [module for module in modules if tuner._check_target_module_exists(config, module)]


def _state(model: Any) -> dict[str, tuple[int, ...]]:
    """The tensors that PEFT would save for the model, and their shapes."""
    from peft.utils.save_and_load import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    masks = {key: shape for key, shape in shapes.items() if key.endswith(".shira_weight")}
    return shapes | {key.removesuffix("weight") + "indices": (2, *shape) for key, shape in masks.items()}


def _sort(bare: Mapping[str, str], targets: frozenset[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Tables from PEFT's key to the file's, per module and for all modules. Other keys are left out."""
    own: dict[str, dict[str, str]] = {}
    shared: dict[str, str] = {}
    for key, plain in bare.items():
        if plain.startswith("base_model."):
            shared[plain] = key
            continue
        parts = plain.split(".")
        module = next((m for n in range(len(parts), 0, -1) if (m := ".".join(parts[:n])) in targets), None)
        leaf = plain.removeprefix(f"{module}.")
        if module is not None and leaf not in ("weight", "bias") and not leaf.startswith("base_layer."):
            own.setdefault(module, {})[PEFT_PREFIX + plain] = key
    return own, shared
