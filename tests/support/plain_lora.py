"""LoRA as PEFT saves it, written without a model: for classes that transformers lacks, or cannot load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = Mapping[str, torch.Tensor]


def write_plain_lora(base: Path, module: str, folder: Path, tensors: Tensors) -> dict[str, torch.Tensor]:
    """An adapter for a matrix of every layer; return what merging gives.

    Args:
        base: the checkpoint, which adapter_config.json names.
        module: what the names of its weights contain before ``.weight``, or before the number of one of several.
        folder: created; must not exist.
        tensors: those of the checkpoint.
    """
    generator, factors, merged = torch.Generator().manual_seed(3), {}, dict(tensors)
    tuned = [name for name, tensor in tensors.items() if f"{module}." in name and tensor.ndim == 2]
    for name in tuned:
        left, right = (0.05 * torch.randn(size, 4, generator=generator) for size in tensors[name].shape)
        before = f"base_model.model.{name.removesuffix('.weight')}"
        factors |= {f"{before}.lora_A.weight": right.T.contiguous(), f"{before}.lora_B.weight": left}
        merged[name] = tensors[name] + 2.0 * left @ right.T
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    targets = {"target_modules": [name.removesuffix(".weight") for name in tuned]}
    (folder / "adapter_config.json").write_text(
        json.dumps({**settings, **targets, "base_model_name_or_path": str(base)}), encoding="utf-8"
    )
    return merged
