"""Models that are refused because llama.cpp computes others: measured, with what accounts for the whole difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quantkit.errors import ArchitectureError
from quantkit.jobs.convert import convert
from quantkit.jobs.via_llama_cpp import convert_via
from tests.support.checkpoints import KINDS, Kind, make_checkpoint
from tests.support.llama_model import llama_logits
from tests.support.reference import ReferenceConverter, reference_folder

Maker = Callable[..., Path]
TOKENS = (11, 18, 25, 32, 39, 46, 53, 60)
PHI_MOE = {
    "architectures": ["PhiMoEForCausalLM"],
    "model_type": "phimoe",
    "attention_bias": True,
    "lm_head_bias": True,
    "max_position_embeddings": 4096,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "router_jitter_noise": 0.01,
    "sliding_window": None,
}


@pytest.fixture
def phi_moe(vocabulary: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(KINDS, "phimoe", Kind("phi-3", PHI_MOE))
    return make_checkpoint(tmp_path / "model", "phimoe", vocabulary=vocabulary("phi-3"), dtype="f32", layers=1)


class RootMeanSquare(nn.Module):
    """What llama.cpp computes in the place of a layer norm."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.norm.eps)) + self.norm.bias


def best_two(scores: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What llama.cpp computes in the place of the sparse mixer."""
    weights, experts = torch.softmax(scores, dim=-1).topk(2)
    return weights / weights.sum(dim=-1, keepdim=True), experts


def test_phi_moe_is_another_model(
    phi_moe: Path, converter: ReferenceConverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this fails, llama.cpp has changed: the refusal may go."""
    from transformers import AutoModelForCausalLM
    from transformers.models.phimoe import modeling_phimoe

    ours = llama_logits(converter.convert(phi_moe, tmp_path / "reference.gguf", "f32"), TOKENS)
    model: Any = AutoModelForCausalLM.from_pretrained(phi_moe, dtype=torch.float32).eval()

    def difference() -> float:
        with torch.no_grad():
            theirs = model(torch.tensor([TOKENS])).logits[0].numpy()
        return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

    assert difference() > 0.1
    monkeypatch.setattr(modeling_phimoe, "sparsemixer", best_two)
    assert difference() > 0.1
    (layer,) = model.model.layers
    layer.input_layernorm = RootMeanSquare(layer.input_layernorm)
    layer.post_attention_layernorm = RootMeanSquare(layer.post_attention_layernorm)
    model.model.norm = RootMeanSquare(model.model.norm)
    assert difference() < 1e-4


def test_phi_moe_is_refused_on_both_ways(phi_moe: Path, tmp_path: Path) -> None:
    said = "PhiMoEForCausalLM is not supported: llama.cpp computes another model"
    with pytest.raises(ArchitectureError, match=said) as caught:
        convert(phi_moe, tmp_path / "out.gguf")
    assert "--via-llama-cpp" not in caught.value.hint
    with pytest.raises(ArchitectureError, match=said):
        convert_via(reference_folder(), phi_moe, tmp_path / "out.gguf")
