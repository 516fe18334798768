"""Checkpoints under the names that wrappers, trainers and other libraries save: the same weights, other names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.support.adapter_matrix import saved_tensors
from tests.support.checkpoints import write_weights

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TensorLayout:
    """How a checkpoint is saved.

    Attributes:
        change: the plain tensors to those that are saved.
        kind: of the checkpoint.
        note: text of the note that tells about it.
    """

    change: Callable[[Tensors], Tensors]
    note: str
    kind: str = "llama3-untied"


def renamed(rename: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


def _before(prefix: str) -> Callable[[Tensors], Tensors]:
    return renamed(lambda name: prefix + name)


def _in_peft(tensors: Tensors) -> Tensors:
    """As a PEFT model saves its whole state: a wrapped projection without factors, and a head trained in full."""
    found = {}
    for name, tensor in tensors.items():
        name = f"base_model.model.{name}"
        if name.endswith("lm_head.weight"):
            found[name.replace(".weight", ".original_module.weight")] = torch.zeros_like(tensor)
            name = name.replace(".weight", ".modules_to_save.default.weight")
        elif ".q_proj." in name:
            name = name.replace(".weight", ".base_layer.weight")
        found[name] = tensor
    return found


def _seen(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def _with_vision(rename: Callable[[str], str], vision: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        **{rename(name): tensor for name, tensor in tensors.items()},
        f"{vision}.layers.0.weight": torch.ones(4, 4),
    }


def _with_value_head(tensors: Tensors) -> Tensors:
    return {**tensors, "v_head.summary.weight": torch.ones(1, 256), "v_head.summary.bias": torch.ones(1)}


def _stacked(tensors: Tensors, mixture: str, names: Mapping[str, tuple[str, ...]]) -> Tensors:
    """The experts of each layer, stacked: by name, the matrices of one expert that follow each other."""
    found = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    modules = sorted({name.partition(".experts.")[0] for name in tensors if ".experts." in name})
    for module in modules:
        count = len({name.split(".experts.")[1].split(".")[0] for name in tensors if name.startswith(f"{module}.ex")})
        layer = module.removesuffix(f".{mixture}")
        for name, kinds in names.items():
            matrices = [
                torch.cat([tensors[f"{module}.experts.{expert}.{kind}.weight"] for kind in kinds])
                for expert in range(count)
            ]
            found[f"{layer}.{name}"] = torch.stack(matrices)
    return found


def _transformers_5(mixture: str, gate: str, up: str, down: str) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        names = {"mlp.experts.gate_up_proj": (gate, up), "mlp.experts.down_proj": (down,)}
        stacked = _stacked(tensors, mixture, names)
        return {name.replace(f"{mixture}.gate.", "mlp.gate."): tensor for name, tensor in stacked.items()}

    return change


def _mlx(mixture: str, **kinds: str) -> Callable[[Tensors], Tensors]:
    names = {f"{mixture}.switch_mlp.{kind}_proj.weight": (own,) for kind, own in kinds.items()}
    return lambda tensors: _stacked(tensors, mixture, names)


def _with_head(tensors: Tensors) -> Tensors:
    return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


_QWEN = ("mlp", "gate_proj", "up_proj", "down_proj")
_GATED = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
LAYOUTS: Mapping[str, TensorLayout] = {
    "ddp": TensorLayout(_before("module."), "the names that DDP or DeepSpeed saves"),
    "torch-compile": TensorLayout(_before("_orig_mod."), "the names that torch.compile saves"),
    "ddp-of-compiled": TensorLayout(_before("module._orig_mod."), "torch.compile in DDP"),
    "compiled-layers": TensorLayout(
        renamed(lambda name: name.replace("self_attn.", "_orig_mod.self_attn.")), "torch.compile"
    ),
    "fsdp": TensorLayout(
        renamed(lambda name: f"_fsdp_wrapped_module.{name}".replace("layers.0.", "layers.0._fsdp_wrapped_module.")),
        "the names that FSDP saves",
    ),
    "peft": TensorLayout(_in_peft, "the names that PEFT saves"),
    "trl": TensorLayout(_before("pretrained_model."), "pretrained_model"),
    "held-as-model": TensorLayout(_before("model."), "holds the model as `model`"),
    "decoder-alone": TensorLayout(renamed(lambda name: name.removeprefix("model.")), "AutoModel", "qwen2-tied"),
    "value-head": TensorLayout(_with_value_head, "are left out: the value head of PPO training"),
    "gemma3-since-4.52": TensorLayout(
        _with_vision(_seen, "model.vision_tower"), "a vision-language model saves", "gemma3"
    ),
    "gemma3-before": TensorLayout(
        _with_vision(lambda name: f"language_model.{name}", "vision_tower"),
        "the vision part (1 tensors)",
        "gemma3",
    ),
    "qwen3-moe-transformers-5": TensorLayout(_transformers_5(*_QWEN), "stacked experts", "qwen3-moe"),
    "qwen3-moe-mlx": TensorLayout(_mlx("mlp", **_GATED), "stacked experts", "qwen3-moe"),
    "qwen2-moe-transformers-5": TensorLayout(_transformers_5(*_QWEN), "stacked experts", "qwen2-moe"),
    "mixtral-transformers-5": TensorLayout(
        _transformers_5("block_sparse_moe", "w1", "w3", "w2"), "stacked experts", "mixtral"
    ),
    "mixtral-mlx": TensorLayout(_mlx("block_sparse_moe", gate="w1", up="w3", down="w2"), "stacked experts", "mixtral"),
    "gemma2-with-its-head": TensorLayout(_with_head, "equals the embedding", "gemma2"),
}


def write_tensor_layout(folder: Path, plain: Path, layout: TensorLayout, *, shards: int = 1) -> Path:
    """The checkpoint *plain* as *layout* saves it."""
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    write_weights(folder, {k: v.contiguous() for k, v in layout.change(saved_tensors(plain)).items()}, shards=shards)
    return folder
