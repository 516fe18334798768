"""Gemma 3n: what llama.cpp computes otherwise, and tensors that checkpoints have fewer of than llama.cpp wants."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.errors import ArchitectureError
from quantkit.jobs.convert import convert
from quantkit.model.opening import open_model
from tests.support.gemma3n_graph import take_gelu_from_a_table, take_samples_deviation
from tests.support.gguf_compare import tensor_differences
from tests.support.gguf_read import read_gguf
from tests.support.llama_model import llama_logits
from tests.support.reference import ReferenceConverter

Maker = Callable[..., Path]
TOKENS = (11, 18, 25, 32, 39, 46, 53, 60, 67, 74)
# The layers that share, of 22.
SHARING = (20, 21)
IDLE = ("k_proj.weight", "v_proj.weight", "k_norm.weight")


@pytest.fixture(scope="module")
def model(checkpoint: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers saves it: its class has no modules for what nobody reads."""
    folder = Path(shutil.copytree(checkpoint("gemma3n", dtype="f32"), tmp_path_factory.mktemp("gemma3n") / "model"))
    tensors = load_file(folder / "model.safetensors")
    for layer in SHARING:
        for name in IDLE:
            del tensors[f"model.layers.{layer}.self_attn.{name}"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def gguf(model: Path) -> Path:
    return convert(model, model.parent / "f32.gguf", outtype="f32")


def test_the_named_differences_are_all(model: Path, gguf: Path) -> None:
    """Where the first or the second assertion fails, docs/differences.md has to change."""
    from transformers import AutoModelForCausalLM

    ours = llama_logits(gguf, TOKENS)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def difference() -> float:
        with torch.no_grad():
            theirs = loaded(torch.tensor([TOKENS])).logits[0].numpy()
        return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

    assert difference() > 0.02
    take_samples_deviation(loaded)
    assert 0.002 < difference() < 0.02
    take_gelu_from_a_table(loaded)
    assert difference() < 0.001


def test_what_nobody_reads_is_zero_where_a_checkpoint_lacks_it(
    checkpoint: Maker, gguf: Path, converter: ReferenceConverter, tmp_path: Path
) -> None:
    reference = converter.convert(checkpoint("gemma3n", dtype="f32"), tmp_path / "reference.gguf", "f32")
    there, made = read_gguf(reference).tensors, read_gguf(gguf).tensors
    assert there.keys() == made.keys()
    assert {name: (tensor.type, tensor.shape) for name, tensor in made.items()} == {
        name: (tensor.type, tensor.shape) for name, tensor in there.items()
    }
    other = {name for name, tensor in made.items() if not np.array_equal(tensor.data, there[name].data)}
    assert other == {f"blk.{layer}.attn_{name}.weight" for layer in SHARING for name in ("k", "v", "k_norm")}
    assert not any(made[name].data.any() for name in other)


def test_rows_that_the_table_for_each_layer_lacks(
    checkpoint: Maker, converter: ReferenceConverter, tmp_path: Path
) -> None:
    """The published tables have none for tokens of pictures and sound: zeros, as the converter writes them."""
    model = Path(shutil.copytree(checkpoint("gemma3n-sees"), tmp_path / "model"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    rows = config["text_config"]["vocab_size"]

    def cut(count: int) -> None:
        tensors = load_file(checkpoint("gemma3n-sees") / "model.safetensors")
        name = "model.language_model.embed_tokens_per_layer.weight"
        tensors[name] = tensors[name][: rows - count].contiguous()
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        config["text_config"]["vocab_size_per_layer_input"] = rows - count
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")

    cut(100)
    for outtype in ("f16", "bf16"):
        reference = converter.convert(model, tmp_path / f"reference-{outtype}.gguf", outtype)
        assert tensor_differences(convert(model, tmp_path / f"{outtype}.gguf", outtype=outtype), reference) == []
    with open_model(model) as opened:
        (note,) = opened.architecture.notes(opened.architecture.settings(config))
    assert note.startswith(f"tokens from {rows - 100} on")
    cut(257)
    with pytest.raises(ArchitectureError, match=f"vocab_size is {rows}, but vocab_size_per_layer_input {rows - 257}"):
        convert(model, tmp_path / "none.gguf")


def test_its_encoders_are_refused_by_name(checkpoint: Maker) -> None:
    with (
        pytest.raises(ArchitectureError, match="the vision part of Gemma3nForConditionalGeneration is not supported"),
        open_model(checkpoint("gemma3n-sees"), mmproj=True),
    ):
        pass
