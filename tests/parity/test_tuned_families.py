"""LoRA on every linear layer of a family: llama.cpp on the merged file computes what PEFT computes on the checkpoint.

What a family does with rows (their order, a matrix that becomes two, stacked experts) is done to merged rows, so every
matrix is tuned.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantkit.errors import AdapterError
from quantkit.files.json_file import read_json
from quantkit.jobs.convert import convert
from quantkit.model.lora_file import plan_adapter_files
from quantkit.model.opening import open_model
from tests.support.llama_model import llama_logits
from tests.support.parity_matrix import AS_LLAMA_CPP
from tests.support.plain_lora import write_plain_lora

Maker = Callable[..., Path]

KINDS = (
    *("glm", "glm4", "glm4-moe", "olmo3", "ministral3", "lfm2", "lfm2-moe", "falcon-h1", "nemotron-h"),
    *("granite-moe", "granite-moe-shared", "granite-4", "llama4"),
    *("seed-oss", "ernie4.5", "ernie4.5-moe", "hunyuan", "exaone4", "cohere", "cohere2", "stablelm", "internlm3"),
    "nemotron",
    *("gemma3n", "gemma4", "gemma4-large", "gemma4-moe"),
    *("deepseek-v2", "deepseek-v3", "glm4-moe-lite", "minicpm3"),
    "gpt-oss",
    *("hunyuan-moe", "olmoe", "arcee", "starcoder2", "phi2", "glm4v"),
)
# PEFT refuses the output matrices of state-space layers, whose kernels pass over LoRA.
BUT_OUT_PROJ = r".*\.(in_proj|[qkvo]_proj|gate_proj|up_proj|down_proj)"
# Llama 4's router is a linear layer with two results, to which PEFT cannot add; Hunyuan's it takes for a parameter.
BUT_ROUTER = r".*\.([qkvo]_proj|gate_proj|up_proj|down_proj)"
# The language model of one that also sees.
INSIDE = r".*language_model.*\.([qkvo]_proj|gate_up_proj|down_proj)"
TARGETS = {
    "glm4v": INSIDE,
    "hunyuan-moe": BUT_ROUTER,
    "falcon-h1": BUT_OUT_PROJ,
    "nemotron-h": BUT_OUT_PROJ,
    "llama4": BUT_ROUTER,
}
# ggml takes GELU from a table of half floats.
GELU = 2e-3
WITH_GELU = ("gemma", "starcoder2", "phi2")
TOKENS = (11, 18, 25, 32, 39, 46, 53, 60, 67, 74)


def load(folder: Path, kind: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = "text_config" in read_json(folder / "config.json")
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    if (change := AS_LLAMA_CPP.get(kind)) is not None:
        change(model)
    return model


def logits(model: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.no_grad():
        found: np.ndarray[Any, np.dtype[np.float32]] = model(torch.tensor([TOKENS])).logits[0].numpy()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_merged_as_peft_computes(checkpoint: Maker, tmp_path: Path, kind: str) -> None:
    compare(checkpoint(kind, dtype="f32"), tmp_path, kind, target_modules=TARGETS.get(kind, "all-linear"))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("gemma4-moe", {"moe_intermediate_size": 96}),  # [experts, out, in], and so has its checkpoint
        ("gemma4-moe", {}),  # square
        ("llama4", {"intermediate_size": 128}),  # [experts, in, out]
        ("llama4", {}),
        ("granite-moe", {}),  # under other names in the checkpoint
    ],
    ids=str,
)
def test_stacks_of_experts(checkpoint: Maker, tmp_path: Path, kind: str, config: dict[str, int]) -> None:
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    base = checkpoint(kind, dtype="f32", config=config)
    compare(base, tmp_path, kind, target_modules=["q_proj"], target_parameters=targets)


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("gemma3n-sees", "altup_unembed_projections"),
        ("gemma3n-sees", "modality_router"),
        ("gemma3n-sees", "per_layer_model_projection"),
        ("gemma4", "per_layer_model_projection"),
    ],
)
def test_no_lora_file_where_llama_cpp_would_pass_over_it(
    checkpoint: Maker, tmp_path: Path, kind: str, module: str
) -> None:
    """It multiplies by these matrices themselves; by the others of the same layers it does not."""
    base = checkpoint(kind)
    for number, name in enumerate((module, "per_layer_projection")):
        write_plain_lora(base, name, tmp_path / str(number), load_file(base / "model.safetensors"))
        with open_model(base, [tmp_path / str(number)]) as model:
            if name == module:
                with pytest.raises(AdapterError, match=rf"llama\.cpp passes over LoRA on '[\w.]*{module}"):
                    plan_adapter_files(model, "tiny")
            else:
                plan_adapter_files(model, "tiny")


def compare(base: Path, tmp_path: Path, kind: str, **settings: Any) -> None:
    """llama.cpp on the merged file, and PEFT with these settings."""
    import peft

    before = logits(load(base, kind))
    torch.manual_seed(3)  # PEFT draws the first factors from here, and ggml's table of GELU is coarse for some
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(load(base, kind), peft.LoraConfig(task_type="CAUSAL_LM", r=4, **settings))
    generator = torch.Generator().manual_seed(3)
    for _, weight in sorted(tuned.named_parameters()):
        if weight.requires_grad:
            weight.data.add_(0.02 * torch.randn(weight.shape, generator=generator))
    tuned.save_pretrained(tmp_path / "adapter")
    expected = logits(tuned)
    merged = convert(base, tmp_path / "merged.gguf", adapters=[tmp_path / "adapter"], outtype="f32")
    ours = llama_logits(merged, TOKENS)
    assert np.abs(expected - before).max() > 0.01 * np.abs(before).max()
    tolerance = GELU if kind.startswith(WITH_GELU) else 1e-4
    assert np.abs(ours - expected).max() < tolerance * np.abs(expected).max()
