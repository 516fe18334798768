"""A PEFT folder: which tensors of the base it changes, and how.

The adapter's file is opened by its header and checked against the base's shapes before any weight is read; the values
are read when the tensor they belong to streams by. Every key must have a meaning here: a key that PEFT would pass
over in silence, or a method this module does not know, is refused by name, because a merged model that quietly lacks
part of its training is the failure users cannot see.

The semantics are those of PEFT 0.21: scaling ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732); ``rank_pattern`` and ``alpha_pattern`` match the end of a module's name; ``fan_in_fan_out`` has no
effect on Linear layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quantkit.checkpoint import read_json
from quantkit.errors import AdapterError, CheckpointError
from quantkit.peft_config import check_config, is_target, pattern_value
from quantkit.tensor_file import DTYPES, TensorFile, TensorSpec, open_tensor_file


@dataclass(frozen=True)
class LowRank:
    """``W += scale * rows @ cols``, with ``rows`` of shape [out, r] and ``cols`` of shape [r, in].

    Attributes:
        rows: key of the left factor (``lora_B``; ``lora_embedding_A`` for embeddings).
        cols: key of the right factor (``lora_A``; ``lora_embedding_B`` for embeddings).
        transposed: the stored factors are the transposes of these, as PEFT stores them for embeddings.
        scale: the scaling.
    """

    rows: str
    cols: str
    transposed: bool
    scale: float


@dataclass(frozen=True)
class Replace:
    """``W = key``: trained in full (``modules_to_save``, trained biases)."""

    key: str


@dataclass(frozen=True)
class Add:
    """``b += scale * key``: the bias of ``lora_B`` (``lora_bias``)."""

    key: str
    scale: float


Change = LowRank | Replace | Add


@dataclass(frozen=True, eq=False)
class Adapter:
    """An open adapter. Two are the same only if they are one object, so that factors can be cached by adapter.

    Attributes:
        path: the folder.
        config: ``adapter_config.json``.
        changes: by name of the base tensor, what happens to it, in order.
        file: the weights.
    """

    path: Path
    config: Mapping[str, Any]
    changes: Mapping[str, tuple[Change, ...]]
    file: TensorFile

    def read(self, key: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows of one of the adapter's tensors as float32 on the CPU.

        Raises:
            AdapterError: a value is NaN or infinite.
        """
        tensor = self.file.read(key, start, stop).float()
        if not torch.isfinite(tensor).all():
            raise AdapterError(
                f"{self.path}: tensor {key!r} has NaN or infinite values",
                hint="the training diverged: use an earlier adapter checkpoint",
            )
        return tensor

    @property
    def trains_tied_weights_together(self) -> bool:
        """PEFT's ``ensure_weight_tying``: embedding and head stay one tensor in training."""
        return bool(self.config.get("ensure_weight_tying"))

    def close(self) -> None:
        self.file.close()


def open_adapter(path: Path, base: Mapping[str, TensorSpec]) -> Adapter:
    """Open a PEFT LoRA folder against the tensors of its base.

    Args:
        path: folder with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``).
        base: the base's tensors by Hugging Face name; a tied head is listed under its own name too.

    Raises:
        AdapterError: naming what is unsupported, missing or does not fit.
    """
    if not path.is_dir():
        raise AdapterError(f"{path}: no such folder", hint="give the folder that holds adapter_config.json")
    if not (path / "adapter_config.json").is_file():
        raise AdapterError(
            f"{path}: adapter_config.json is missing", hint="give the folder PEFT's save_pretrained wrote"
        )
    try:
        config = read_json(path / "adapter_config.json")
    except CheckpointError as error:
        raise AdapterError(str(error), hint=error.hint) from None
    check_config(path, config)
    weights = next((f for f in (path / "adapter_model.safetensors", path / "adapter_model.bin") if f.is_file()), None)
    if weights is None:
        raise AdapterError(f"{path}: adapter_model.safetensors is missing", hint="download the adapter's weights")
    file = open_tensor_file(weights, AdapterError)
    try:
        changes = _changes(path, config, file.specs, base)
    except BaseException:
        file.close()
        raise
    return Adapter(path, config, changes, file)


# module path and role of a key, the adapter's name in the middle optional (training checkpoints keep it)
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<role>lora_A|lora_B|lora_embedding_A|lora_embedding_B)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?P<leaf>\.weight|\.bias)?"
)
_ROLES = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_B.bias")
_SAVED = re.compile(r"(?P<module>.+?)(?:\.modules_to_save(?:\.[^.]+)?|\.base_layer)?\.(?P<leaf>weight|bias)")


def _changes(
    path: Path, config: Mapping[str, Any], specs: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec]
) -> dict[str, tuple[Change, ...]]:
    factors: dict[str, dict[str, str]] = {}  # module -> role -> key
    replaced: dict[str, str] = {}  # base tensor -> key
    for key, spec in specs.items():
        if spec.dtype not in DTYPES:
            raise AdapterError(f"{path}: tensor {key!r} is stored as {spec.dtype}; supported are {', '.join(DTYPES)}")
        plain = key.removeprefix("base_model.model.")
        if match := _LORA.fullmatch(plain):
            role = match["role"] + (".bias" if match["leaf"] == ".bias" else "")
            if role not in _ROLES:
                raise AdapterError(f"{path}: tensor {key!r} has no meaning in a LoRA adapter")
            if factors.setdefault(match["module"], {}).setdefault(role, key) != key:
                raise AdapterError(
                    f"{path}: module {match['module']!r} has two {role}: more than one adapter in the file",
                    hint="save the adapter that you mean alone: save_pretrained(..., selected_adapters=[NAME])",
                )
        elif "lora_" in plain:
            raise AdapterError(f"{path}: tensor {key!r} is not part of plain LoRA")
        elif match := _SAVED.fullmatch(plain):
            target = f"{match['module']}.{match['leaf']}"
            if (other := replaced.setdefault(target, key)) != key:
                raise AdapterError(
                    f"{path}: {other!r} and {key!r} are two copies of {target!r}: more than one adapter in the file",
                    hint="save the adapter that you mean alone: save_pretrained(..., selected_adapters=[NAME])",
                )
        else:
            raise AdapterError(f"{path}: tensor {key!r} has no meaning in a LoRA adapter")
    if not factors and not replaced:
        raise AdapterError(f"{path}: the adapter's file has no tensors", hint="save the adapter again")
    changes: dict[str, list[Change]] = {}
    for target, key in replaced.items():
        _check_replacement(path, key, specs[key], target, base)
        changes[target] = [Replace(key)]
    for module, roles in factors.items():
        for target, change in _module_changes(path, config, module, roles, specs, base):
            changes.setdefault(target, []).append(change)
    _check_targets(path, config, factors, replaced, base)
    return {target: tuple(ops) for target, ops in changes.items()}


def _no_such_tensor(path: Path, key: str, target: str) -> AdapterError:
    return AdapterError(
        f"{path}: {key!r} belongs to {target!r}, which the base model does not have",
        hint="give the base model that the adapter was trained on (base_model_name_or_path in adapter_config.json)",
    )


def _check_replacement(path: Path, key: str, spec: TensorSpec, target: str, base: Mapping[str, TensorSpec]) -> None:
    if target not in base:
        raise _no_such_tensor(path, key, target)
    if spec.shape != base[target].shape:
        raise AdapterError(
            f"{path}: {key!r} has shape {list(spec.shape)}, the base's {target!r} has {list(base[target].shape)}",
            hint="an adapter with a resized vocabulary needs the base resized to the same size",
        )


def _module_changes(
    path: Path,
    config: Mapping[str, Any],
    module: str,
    roles: Mapping[str, str],
    specs: Mapping[str, TensorSpec],
    base: Mapping[str, TensorSpec],
) -> Iterator[tuple[str, Change]]:
    """The changes one module's factors make: its weight, and with ``lora_bias`` its bias."""
    embedding = "lora_embedding_A" in roles or "lora_embedding_B" in roles
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    for role in (first, second):
        if role not in roles:
            raise AdapterError(f"{path}: module {module!r} has no {role}", hint="save the adapter again")
    target = f"{module}.weight"
    if target not in base:
        raise _no_such_tensor(path, roles[first], target)
    a, b = specs[roles[first]], specs[roles[second]]
    rank: int = pattern_value(config.get("rank_pattern"), module, config["r"])
    # PEFT keeps an embedding's factors the other way round: A is [r, vocabulary], B is [hidden, r].
    rows, cols = (a.shape[::-1], b.shape[::-1]) if embedding else (b.shape, a.shape)
    if len(a.shape) != 2 or len(b.shape) != 2 or 0 in (*a.shape, *b.shape):
        raise AdapterError(
            f"{path}: module {module!r} has factors of shape {list(a.shape)} and {list(b.shape)}",
            hint="sharded training (ZeRO-3, FSDP) must gather the weights before save_pretrained",
        )
    if rows[1] != rank or cols[0] != rank:
        raise AdapterError(
            f"{path}: module {module!r} has rank {cols[0]} and {rows[1]}, adapter_config.json says {rank}"
        )
    shape = base[target].shape
    if (rows[0], cols[1]) != shape:
        raise AdapterError(
            f"{path}: {module!r}: {_misfit(target, (rows[0], cols[1]), shape)}",
            hint="give the base model that the adapter was trained on (base_model_name_or_path in adapter_config.json)",
        )
    alpha = float(pattern_value(config.get("alpha_pattern"), module, config["lora_alpha"]))
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    if embedding:
        yield target, LowRank(roles[first], roles[second], True, scale)
    else:
        yield target, LowRank(roles[second], roles[first], False, scale)
    if key := roles.get("lora_B.bias"):
        bias = f"{module}.bias"
        if bias not in base:
            raise _no_such_tensor(path, key, bias)
        if specs[key].shape != base[bias].shape:
            raise AdapterError(
                f"{path}: {key!r} has shape {list(specs[key].shape)}, {bias!r} has {list(base[bias].shape)}"
            )
        yield bias, Add(key, scale)


def _misfit(target: str, trained: tuple[int, int], shape: Sequence[int]) -> str:
    """How the adapter's shape differs: in the words users know where the input of the layer is the hidden state."""
    from_hidden = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head", "embed_tokens")
    if target.split(".")[-2] in from_hidden and trained[1] != shape[1]:
        return f"adapter was trained on hidden size {trained[1]}, this base has {shape[1]}"
    return f"adapter was trained on {list(trained)}, this base has {list(shape)}"


# What PEFT's "all-linear" leaves out: the embedding is no Linear layer, the head is passed over.
_NOT_LINEAR = ("embed_tokens", "lm_head")


def _all_linear(config: Mapping[str, Any]) -> bool:
    return str(config.get("target_modules")).lower() == "all-linear"


def _check_targets(
    path: Path,
    config: Mapping[str, Any],
    factors: Mapping[str, Any],
    replaced: Mapping[str, str],
    base: Mapping[str, TensorSpec],
) -> None:
    """What the config promises and what the file holds must be the same modules."""
    for module in factors:
        if not is_target(config, module):
            raise AdapterError(
                f"{path}: has weights for {module!r}, which target_modules in adapter_config.json leaves out",
                hint="the config and the weights are from different trainings: use the folder as it was saved",
            )
    for name, spec in base.items():
        module = name.removesuffix(".weight")
        linear = len(spec.shape) == 2 and not (_all_linear(config) and module.endswith(_NOT_LINEAR))
        if linear and module not in factors and is_target(config, module):
            raise AdapterError(
                f"{path}: target_modules names {module!r}, but its weights are not in the file",
                hint="the file is incomplete: save or download the adapter again",
            )
    for saved in config.get("modules_to_save") or ():
        if not any(re.fullmatch(rf"(.*\.)?{re.escape(saved)}(\..*)?\.(weight|bias)", name) for name in replaced):
            raise AdapterError(
                f"{path}: modules_to_save names {saved!r}, but its weights are not in the file",
                hint="the file is incomplete: save or download the adapter again",
            )
