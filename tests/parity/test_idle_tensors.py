"""Tensors that published checkpoints have and nobody reads: keys and values of layers that use those of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.errors import AdapterError
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from tests.support.gguf_compare import tensor_differences
from tests.support.gguf_read import read_gguf
from tests.support.reference import ReferenceConverter

Maker = Callable[..., Path]
HEADS = {2: 32, 3: 64}


@pytest.fixture
def published(checkpoint: Maker, tmp_path: Path) -> Path:
    """Gemma 4's small models: layers without keys of their own have their tensors all the same."""
    import shutil

    folder = Path(shutil.copytree(checkpoint("gemma4"), tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    for layer, size in HEADS.items():
        before = f"model.layers.{layer}.self_attn"
        tensors |= {f"{before}.{name}_proj.weight": torch.ones(size, 256, dtype=torch.bfloat16) for name in "kv"}
        tensors[f"{before}.k_norm.weight"] = torch.ones(size, dtype=torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tuned(base: Path, folder: Path) -> Path:
    import peft
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "k_proj"]))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.add_(0.02)
    model.save_pretrained(folder)
    return folder


def test_they_are_written_as_the_converter_does(published: Path, converter: ReferenceConverter, tmp_path: Path) -> None:
    reference = converter.convert(published, tmp_path / "reference.gguf", "f16")
    ours = convert(published, tmp_path / "ours.gguf")
    assert tensor_differences(ours, reference) == []
    assert "blk.3.attn_k_norm.weight" in read_gguf(ours).tensors


def test_an_adapter_has_no_factors_for_them(published: Path, tmp_path: Path) -> None:
    adapter = tuned(published, tmp_path / "adapter")
    assert not any(".layers.3.self_attn.k_proj" in name for name in load_file(adapter / "adapter_model.safetensors"))
    assert convert(published, tmp_path / "merged.gguf", adapters=[adapter]).exists()
    merge(published, tmp_path / "merged", adapters=[adapter])
    factors = load_file(adapter / "adapter_model.safetensors")
    kept = {name: factor for name, factor in factors.items() if ".layers.1.self_attn.k_proj" not in name}
    save_file(kept, adapter / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="k_proj"):
        convert(published, tmp_path / "again.gguf", adapters=[adapter])
