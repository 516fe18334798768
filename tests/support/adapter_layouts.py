"""Adapters as trainers other than plain PEFT leave them: the same weights under other names, in other files.

Each layout is written from the documentation of its trainer, and from keys that its users report.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_PEFT = "base_model.model."


@dataclass(frozen=True)
class Layout:
    """How a trainer writes a LoRA adapter of a Llama.

    Attributes:
        rename: PEFT's key to the trainer's.
        config: settings of adapter_config.json that it has besides; None removes one.
        only: the settings it writes, where they are few.
        binary: adapter_model.bin.
        files: further files beside the adapter.
    """

    rename: Callable[[str], str] = str
    config: Mapping[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    binary: bool = False
    files: Mapping[str, str] = field(default_factory=dict)


def _below_peft(prefix: str) -> Callable[[str], str]:
    """Another beginning of the path, where PEFT writes ``base_model.model.model.``"""
    return lambda key: key.replace(f"{_PEFT}model.", prefix)


def _in_layers(wrapper: str) -> Callable[[str], str]:
    return lambda key: re.sub(r"(layers\.\d+)\.", rf"\1.{wrapper}.", key)


_TRAINER_FILES = {
    "README.md": "---\nlibrary_name: peft\n---\n",
    "all_results.json": "{}",
    "trainer_state.json": "{}",
    "training_args.bin": "\0",
    "optimizer.pt": "\0",
    "rng_state.pth": "\0",
    "config.yaml": "base_model: x\n",
}
LAYOUTS: dict[str, Layout] = {
    "no-prefix": Layout(lambda key: key.removeprefix(_PEFT)),
    "peft-in-peft": Layout(lambda key: _PEFT + key),
    "torch-compile": Layout(lambda key: f"_orig_mod.{key}"),
    "torch-compile-inside": Layout(lambda key: key.replace(_PEFT, f"{_PEFT}_orig_mod.")),
    "torch-compile-by-layer": Layout(_in_layers("_orig_mod")),
    "fsdp": Layout(_in_layers("_fsdp_wrapped_module")),
    "fsdp-with-checkpointing": Layout(_in_layers("_fsdp_wrapped_module._checkpoint_wrapped_module")),
    "ddp": Layout(lambda key: f"module.{key}"),
    "deepspeed-inside": Layout(lambda key: key.replace(_PEFT, f"{_PEFT}module.")),
    "adapter-name": Layout(lambda key: key.replace(".weight", ".default.weight")),
    "vision-model": Layout(_below_peft(f"{_PEFT}model.language_model.")),
    "vision-model-of-transformers-4.51": Layout(_below_peft(f"{_PEFT}language_model.model.")),
    "without-head": Layout(_below_peft(_PEFT), {"task_type": "FEATURE_EXTRACTION"}),
    "vision-model-by-pattern": Layout(
        _below_peft(f"{_PEFT}model.language_model."),
        {"target_modules": r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"},
    ),
    "llama-factory": Layout(files=_TRAINER_FILES),
    "axolotl": Layout(
        config={"modules_to_save": [], "loftq_config": {}, "layers_pattern": None, "megatron_config": None},
        files=_TRAINER_FILES,
        binary=True,
    ),
    "unsloth": Layout(
        config={"base_model_name_or_path": "unsloth/llama-3-8b-bnb-4bit", "inference_mode": True, "revision": None}
    ),
    # torchtune's checkpointers write PEFT's keys, and a config of what they know.
    "torchtune": Layout(
        only=("r", "lora_alpha", "target_modules", "peft_type", "base_model_name_or_path"),
        files={"adapter_0.pt": "\0", "recipe_state.pt": "\0"},
    ),
    # Before PEFT 0.4; alpaca-lora and its descendants.
    "peft-0.2": Layout(
        config={"enable_lora": None, "merge_weights": False, "rank_pattern": None, "use_rslora": None}, binary=True
    ),
}


def write_layout(folder: Path, plain: Path, layout: Layout) -> Path:
    """Write the adapter in folder *plain*, which PEFT saved, as a trainer would have.

    Args:
        folder: created.
        plain: with adapter_config.json and adapter_model.safetensors.
        layout: the trainer's.
    """
    folder.mkdir()
    weights = {layout.rename(key): tensor for key, tensor in load_file(plain / "adapter_model.safetensors").items()}
    if layout.binary:
        torch.save(weights, folder / "adapter_model.bin")
    else:
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "adapter_config.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in config.items() if not layout.only or key in layout.only}
    settings |= layout.config
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    for name, text in layout.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_torchtune(folder: Path, plain: Path) -> Path:
    """The adapter in torchtune's own layout, which its checkpointers write where PEFT's is not asked for."""
    names = {
        "self_attn.q_proj": "attn.q_proj",
        "self_attn.k_proj": "attn.k_proj",
        "self_attn.v_proj": "attn.v_proj",
        "self_attn.o_proj": "attn.output_proj",
        "mlp.gate_proj": "mlp.w1",
        "mlp.down_proj": "mlp.w2",
        "mlp.up_proj": "mlp.w3",
        "lora_A": "lora_a",
        "lora_B": "lora_b",
        f"{_PEFT}model.": "",
    }
    shutil.copytree(plain, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    for old, new in names.items():
        weights = {key.replace(old, new): tensor for key, tensor in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def write_qwen(folder: Path, base: Mapping[str, torch.Tensor], *, full: bool = False) -> Path:
    """An adapter as the finetune.py of the first Qwen saves it.

    Args:
        folder: created.
        base: the base's tensors.
        full: as it trains the models that do not chat: with embedding and head in full.
    """
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, weight in base.items():
        if name.endswith(("c_attn.weight", "c_proj.weight", "w1.weight", "w2.weight")):
            module = _PEFT + name.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = 0.05 * torch.randn(4, weight.shape[1], generator=generator)
            tensors[f"{module}.lora_B.weight"] = 0.05 * torch.randn(weight.shape[0], 4, generator=generator)
        elif full and name in ("transformer.wte.weight", "lm_head.weight"):
            tensors[_PEFT + name] = weight + 0.05 * torch.randn(weight.shape, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "base_model_name_or_path": "Qwen/Qwen-7B-Chat",
        "target_modules": ["c_attn", "c_proj", "w1", "w2"],
        "modules_to_save": ["wte", "lm_head"] if full else None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder
