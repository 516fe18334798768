"""Experts of Qwen3-VL: stacks of matrices that are stored transposed, or as transformers 5 saves them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.errors import CheckpointError
from quantkit.jobs.convert import convert
from tests.parity.test_mmproj import checkpoint
from tests.support.gguf_compare import differences
from tests.support.gguf_read import read_gguf


def test_experts_that_are_stored_either_way(tmp_path: Path) -> None:
    """As on the hub and as transformers 5 saves them, with LoRA on the stacks; other layouts are refused."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = checkpoint(tmp_path, "qwen3-vl-moe", "f32")
    torch.manual_seed(6)
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    loaded.save_pretrained(tmp_path / "saved")
    files = [file for file in model.iterdir() if not (tmp_path / "saved" / file.name).exists()]
    for file in files:
        shutil.copy(file, tmp_path / "saved")
    stacks = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    name = f"model.language_model.layers.0.{stacks[0]}"
    before, after = (load_file(at / "model.safetensors")[name] for at in (model, tmp_path / "saved"))
    assert torch.equal(before.mT, after)
    settings = LoraConfig(r=4, target_modules=["q_proj"], target_parameters=stacks, init_lora_weights=False)
    trained = get_peft_model(loaded, settings)
    trained.save_pretrained(tmp_path / "adapter")
    trained.merge_and_unload().save_pretrained(tmp_path / "merged")
    for file in files:
        shutil.copy(file, tmp_path / "merged")
    saved = convert(tmp_path / "saved", tmp_path / "saved.gguf", outtype="f32")
    assert differences(saved, convert(model, tmp_path / "model.gguf", outtype="f32")) == []
    ours = read_gguf(convert(model, tmp_path / "ours.gguf", adapters=tmp_path / "adapter", outtype="f32")).tensors
    theirs = read_gguf(convert(tmp_path / "merged", tmp_path / "theirs.gguf", outtype="f32")).tensors
    base = read_gguf(saved).tensors
    for name, tensor in ours.items():
        found, wanted, plain = (t.data.view(np.float32) for t in (tensor, theirs[name], base[name]))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max(), err_msg=name)
        assert ("_exps" in name or "attn_q.weight" in name) == (np.abs(found - plain).max() > 1e-3), name
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    other = f"model.language_model.layers.1.{stacks[1]}"
    tensors[other] = tensors[other].permute(1, 0, 2).contiguous()
    save_file(tensors, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.experts\.down_proj' have shape .* expected"):
        convert(tmp_path / "saved", tmp_path / "other.gguf")
