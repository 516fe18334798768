"""What state-space layers compute from the weights, in every type of checkpoint: the bytes of llama.cpp's converter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.arch.mamba2 import negative_exp
from quantkit.jobs.convert import convert
from tests.support.adapter_matrix import load
from tests.support.bits import bits
from tests.support.gguf_compare import differences
from tests.support.gguf_read import read_gguf
from tests.support.llama_model import llama_logits

Maker = Callable[..., Path]
TOKENS = (11, 18, 25, 32, 39, 46, 53, 60, 67, 74)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_computed_as_the_converter_does(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, dtype: str) -> None:
    """With values of A as they are in real models; bfloat16 has a row in the parity matrix."""
    model = shutil.copytree(checkpoint("falcon-h1", dtype=dtype, layers=1), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.mamba.A_log"
    tensors[name] = torch.log(torch.arange(1, len(tensors[name]) + 1) / 1.7).to(tensors[name].dtype)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    ours = convert(model, tmp_path / "ours.gguf", outtype="f32")
    assert differences(ours, reference_gguf(model, "f32", pre="llama-bpe")) == []


def test_torch_is_asked_for_exponentials() -> None:
    """One of a hundred is not the correctly rounded one, so that numpy would give other bytes."""
    values = np.linspace(-3, 5, 4001, dtype=np.float32)
    theirs = (-torch.exp(torch.from_numpy(values.copy()))).numpy()
    assert bits(negative_exp(values, 0)) == bits(theirs)
    halves = values.astype(np.float16)
    assert bits(negative_exp(halves, 0)) == bits((-torch.exp(torch.from_numpy(halves.copy()))).numpy())


def test_nemotron_h_without_experts(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path) -> None:
    """transformers' class has experts by default, which the converter takes for the model's: it must read the file."""
    model = shutil.copytree(
        checkpoint("nemotron-h", config={"hybrid_override_pattern": "M-*"}, dtype="f32"), tmp_path / "model"
    )
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if not key.startswith(("moe", "n_", "num_experts", "topk"))}
    config |= {"n_groups": 2, "model_type": "unknown"}
    unknown = shutil.copytree(model, tmp_path / "unknown")
    (unknown / "config.json").write_text(json.dumps(config), encoding="utf-8")
    ours = convert(model, tmp_path / "ours.gguf", outtype="f32")
    assert differences(ours, reference_gguf(unknown, "f32", pre="llama-bpe")) == []
    with torch.no_grad():
        theirs = load(model)(torch.tensor([TOKENS])).logits[0].numpy()
    assert np.abs(llama_logits(ours, TOKENS) - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("granitehybrid", {"num_local_experts": 0, "num_experts_per_tok": 0}),
        (
            "granite",
            {
                "layer_types": ["attention", "attention"],
                "num_experts_per_tok": 0,
                "num_local_experts": 0,
                "position_embedding_type": "rope",
            },
        ),
        ("granitemoe", {"layer_types": ["attention", "attention"], "position_embedding_type": "rope"}),
    ],
)
def test_granite_4_is_of_four_architectures(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, name: str, settings: Mapping[str, Any]
) -> None:
    """The fourth, with experts and state spaces, has a row in the parity matrix."""
    model = checkpoint("granite-4", config=settings)
    ours = convert(model, tmp_path / "ours.gguf", outtype="f32")
    assert read_gguf(ours).metadata["general.architecture"].value == name
    assert differences(ours, reference_gguf(model, "f32", pre="llama-bpe")) == []
    with torch.no_grad():
        theirs = load(model).float()(torch.tensor([TOKENS])).logits[0].numpy()
    assert np.abs(llama_logits(ours, TOKENS) - theirs).max() < 1e-5 * np.abs(theirs).max()
