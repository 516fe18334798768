"""What state-space layers compute from the weights, in every type of checkpoint: the bytes of llama.cpp's converter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.arch.mamba2 import negative_exp
from quantkit.jobs.convert import convert
from tests.support.bits import bits
from tests.support.gguf_compare import differences

Maker = Callable[..., Path]


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
