"""LoRA on the layers of Qwen3-Next and Qwen3.5: llama.cpp on the merged file computes what PEFT does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantkit.files.json_file import read_json
from quantkit.jobs.convert import convert, convert_adapter
from tests.support.llama_logits import llama_logits as logits_with
from tests.support.llama_model import llama_logits

Maker = Callable[..., Path]
TOKENS = tuple(range(11, 75, 7))
ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
APART = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3.5": ("qwen3.5", {"target_modules": [*ATTENTION, *APART, *MLP]}),
    "qwen3.5-dora": ("qwen3.5", {"target_modules": APART, "use_dora": True}),
    "qwen3.5-saved": ("qwen3.5", {"target_modules": ["out_proj"], "modules_to_save": ["in_proj_qkv", "norm"]}),
    "qwen3.5-sees": ("qwen3.5-sees", {"target_modules": r".*language_model.*(in_proj_.*|out_proj|[qkvo]_proj)"}),
    "qwen3.5-moe": ("qwen3.5-moe", {"target_modules": APART, "target_parameters": EXPERTS}),
    "qwen3-next": (
        "qwen3-next",
        {"target_modules": [*ATTENTION, "in_proj_qkvz", "in_proj_ba", "out_proj"], "target_parameters": EXPERTS},
    ),
}


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = "text_config" in read_json(folder / "config.json")
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


def tune(base: Path, folder: Path, **settings: Any) -> torch.Tensor:
    """An adapter that PEFT saves, with other values in everything that is trained; the logits with it."""
    import peft

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", r=4, **settings))
        generator = torch.Generator().manual_seed(3)
        for _, weight in sorted(model.named_parameters()):
            if weight.requires_grad:
                weight.data.add_(0.1 * torch.randn(weight.shape, generator=generator))
        model.save_pretrained(folder)
        found: torch.Tensor = model(torch.tensor([TOKENS])).logits[0]
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_merged_file_computes_what_peft_does(checkpoint: Maker, tmp_path: Path, name: str) -> None:
    kind, settings = CASES[name]
    base = checkpoint(kind)
    expected = tune(base, tmp_path / "adapter", **settings).numpy()
    merged = convert(base, tmp_path / "merged.gguf", adapters=[tmp_path / "adapter"], outtype="f32", device="cpu")
    plain = convert(base, tmp_path / "plain.gguf", outtype="f32", device="cpu")
    largest = np.abs(expected).max()
    assert np.abs(llama_logits(plain, TOKENS) - expected).max() > 1e-2 * largest
    assert np.abs(llama_logits(merged, TOKENS) - expected).max() < 1e-4 * largest


@pytest.mark.parametrize("name", ["qwen3.5", "qwen3-next"])
def test_a_lora_file_has_the_heads_in_ggufs_order(checkpoint: Maker, tmp_path: Path, name: str) -> None:
    kind, settings = CASES[name]
    base = checkpoint(kind)
    chosen = {key: value for key, value in settings.items() if key == "target_modules"}
    expected = tune(base, tmp_path / "adapter", **chosen).numpy()
    lora = convert_adapter(base, tmp_path / "lora.gguf", adapter=tmp_path / "adapter")
    plain = convert(base, tmp_path / "plain.gguf", outtype="f32", device="cpu")
    found = logits_with(plain, TOKENS, tmp_path / "logits.npy", loras=[lora])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
