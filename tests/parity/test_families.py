"""What the parity matrix has no row for: rotary scalings, checkpoints that also see, and what is rounded in float16.

llama.cpp's converter is no judge of LongRoPE for Llama, which it loses; transformers is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.jobs.convert import convert
from quantkit.model.opening import open_model
from tests.support.checkpoints import KINDS
from tests.support.gguf_compare import differences
from tests.support.llama_logits import llama_logits
from tests.support.pre_tokenizers import STRUCTURES

Maker = Callable[..., Path]
_TOKENS = [(37 * i + 11) % 900 + 20 for i in range(24)]
# Relative to the largest logit: both sides compute in float32, in another order.
_CLOSE, _APART = 1e-5, 1e-2
_CLOSE_WITH_GELU = 2e-3  # ggml takes it from a table of half floats
_SHORT, _LONG = [1.0 + 0.125 * i for i in range(16)], [1.0 + 0.75 * i for i in range(16)]
_LONGROPE = {"rope_type": "longrope", "short_factor": _SHORT, "long_factor": _LONG}


@pytest.mark.parametrize(
    ("kind", "trained", "context", "scaling"),
    [
        ("llama3-untied", 16, 64, {"rope_type": "linear", "factor": 4.0}),
        ("llama3-untied", 16, 64, {"rope_type": "yarn", "factor": 4.0}),
        ("llama3-untied", 16, 64, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4}),
        ("llama3-untied", 16, 512, _LONGROPE),
        ("llama3-untied", 512, 4096, _LONGROPE),
        ("phi3", 16, 512, _LONGROPE),
        ("qwen3", 16, 64, {"rope_type": "yarn", "factor": 4.0}),
        ("smollm3", 16, 64, {"rope_type": "yarn", "factor": 4.0}),
        ("olmo2", 16, 64, {"rope_type": "yarn", "factor": 4.0}),
        ("granite", 16, 64, {"rope_type": "yarn", "factor": 4.0}),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else str(value),
)
def test_scaled_as_in_transformers(
    checkpoint: Maker, tmp_path: Path, kind: str, trained: int, context: int, scaling: Mapping[str, Any]
) -> None:
    config = {
        "max_position_embeddings": context,
        "original_max_position_embeddings": trained,
        "rope_scaling": {**scaling, "original_max_position_embeddings": trained},
    }
    model = checkpoint(kind, dtype="f32", config=config)
    found = llama_logits(convert(model, tmp_path / "model.gguf", outtype="f32"), _TOKENS, tmp_path / "logits.npy")
    assert _apart(found, _logits(model)) < _CLOSE
    assert _apart(found, _logits(checkpoint(kind, dtype="f32"))) > _APART  # the scaling is what makes them equal


@pytest.mark.parametrize("kind", ["qwen2-vl", "qwen3-vl"])
@pytest.mark.parametrize("scaling", ["yarn", "linear"])
def test_pairs_of_m_rope_are_scaled_as_in_transformers(
    checkpoint: Maker, tmp_path: Path, kind: str, scaling: str
) -> None:
    """By the option, which config.json then has not said, as by a config.json that says so."""
    plain = checkpoint(kind, dtype="f32", config={"max_position_embeddings": 16})
    said = {**KINDS[kind].config["rope_scaling"], "factor": 4.0, "original_max_position_embeddings": 16}
    said = {key: value for key, value in said.items() if key != "type"} | {"rope_type": scaling}
    model = checkpoint(kind, dtype="f32", config={"max_position_embeddings": 64, "rope_scaling": said})
    ours = convert(plain, tmp_path / "model.gguf", outtype="f32", rope_scaling=f"{scaling}:4")
    assert differences(ours, convert(model, tmp_path / "said.gguf", outtype="f32")) == []
    found = llama_logits(ours, _TOKENS, tmp_path / "logits.npy")
    assert _apart(found, _logits(model)) < _CLOSE
    assert _apart(found, _logits(plain)) > _APART


def test_the_epsilon_that_llama_cpp_does_not_read(checkpoint: Maker, tmp_path: Path) -> None:
    """Of Qwen2-VL; this fails once it reads it, and then the note is to go."""
    found = []
    for epsilon in (1e-6, 1e-2):
        model = checkpoint("qwen2-vl", config={"rms_norm_eps": epsilon})
        with open_model(model) as opened:
            assert [note for note in opened.notes if f"the model adds {epsilon:g}" in note]
        gguf = convert(model, tmp_path / f"{epsilon}.gguf")
        found.append(llama_logits(gguf, _TOKENS, tmp_path / "logits.npy"))
    np.testing.assert_array_equal(*found)


def _logits(model: Path) -> npt.NDArray[np.float32]:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = "text_config" in json.loads((model / "config.json").read_text(encoding="utf-8"))
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    loaded = auto.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = loaded(torch.tensor([_TOKENS])).logits[0].numpy()
    return logits


def _apart(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("kind", ["gemma2", "gemma3"])
def test_ones_are_added_in_the_type_that_is_stored(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, kind: str
) -> None:
    model = checkpoint(kind, dtype="f16")
    assert differences(convert(model, tmp_path / "ours.gguf"), reference_gguf(model, "f16")) == []


@pytest.mark.parametrize(
    ("decoder", "head", "vision"),
    [
        ("language_model.model.", "language_model.", "vision_tower."),
        ("model.language_model.", "", "model.vision_tower."),
    ],
    ids=["transformers-4", "transformers-5"],
)
def test_the_language_model_of_one_that_also_sees(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, decoder: str, head: str, vision: str
) -> None:
    plain, model = checkpoint("gemma3"), tmp_path / "sees"
    shutil.copytree(plain, model)
    text = json.loads((model / "config.json").read_text(encoding="utf-8"))
    del text["architectures"]
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": text,
        "vision_config": {"model_type": "siglip_vision_model", "num_hidden_layers": 1},
        **{key: text[key] for key in ("bos_token_id", "eos_token_id")},
    }
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {
        decoder + name.removeprefix("model.") if name.startswith("model.") else head + name: tensor
        for name, tensor in load_file(plain / "model.safetensors").items()
    }
    tensors[f"{vision}vision_model.post_layernorm.weight"] = torch.ones(8)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    ours = convert(model, tmp_path / "ours.gguf", outtype="f32")
    assert differences(ours, reference_gguf(model, "f32")) == []
    assert _apart(llama_logits(ours, _TOKENS, tmp_path / "logits.npy"), _logits(plain)) < _CLOSE_WITH_GELU
    with open_model(model) as opened:
        assert "only the language model is converted; the vision part (1 tensors) is left out" in opened.notes


@pytest.mark.parametrize(
    ("kind", "lists"),
    [
        ("gemma3", {"layer_types": [*["sliding_attention"] * 5, "full_attention"]}),
        ("smollm3", {"layer_types": ["full_attention"] * 5, "no_rope_layers": [1, 1, 1, 0, 1]}),
    ],
)
def test_settings_listed_for_each_layer(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, kind: str, lists: Mapping[str, Any]
) -> None:
    model = checkpoint(kind, config=lists)
    structure = STRUCTURES.get(KINDS[kind].vocabulary)
    reference = reference_gguf(model, "f16", pre=structure.name if structure else None)
    assert differences(convert(model, tmp_path / "ours.gguf"), reference) == []


def test_a_window_that_llama_cpp_does_not_have_is_told(checkpoint: Maker) -> None:
    with open_model(checkpoint("mistral")) as model:
        assert [note for note in model.notes if "beyond 4096 of the 32768 tokens of context" in note]
    with open_model(checkpoint("mistral-nemo")) as model:
        assert not model.notes
