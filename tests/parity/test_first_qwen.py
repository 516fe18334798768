"""The first Qwen in llama.cpp: transformers has no such model, but a Qwen2 with its weights computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantkit.checkpoint.folder import read_json
from quantkit.jobs.convert import convert
from tests.support.llama_model import llama_logits
from tests.support.parity_matrix import pre_tokenizer

Maker = Callable[..., Path]

TOKENS = (11, 18, 25, 32, 39, 46, 53, 60, 67, 74, 81, 88)


def as_qwen2(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under Qwen2's names: q, k and v lie in ``c_attn``, ``w2`` is the gate and ``w1`` goes up."""
    renamed = {
        "transformer.wte": "model.embed_tokens",
        "transformer.ln_f": "model.norm",
        "transformer.h": "model.layers",
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
        "attn.c_proj": "self_attn.o_proj",
        "mlp.w2": "mlp.gate_proj",
        "mlp.w1": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    }
    found = {}
    for name, tensor in tensors.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        if "attn.c_attn" in name:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            found |= {name.replace("attn.c_attn", f"self_attn.{x}_proj"): part for x, part in parts}
        else:
            found[name] = tensor
    return found


def test_logits(checkpoint: Maker, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    base = checkpoint("qwen", dtype="f32")
    config = read_json(base / "config.json")
    same = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "max_position_embeddings")
    twin = Qwen2Config(
        **{key: config[key] for key in same},
        intermediate_size=config["intermediate_size"] // 2,
        num_key_value_heads=config["num_attention_heads"],
        rms_norm_eps=config["layer_norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": float(config["rotary_emb_base"])},
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(twin).eval()
    model.load_state_dict(as_qwen2(load_file(base / "model.safetensors")))
    with torch.no_grad():
        theirs = model(torch.tensor([TOKENS])).logits[0].numpy()
    ours = llama_logits(convert(base, tmp_path / "ours.gguf", outtype="f32"), TOKENS)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert (ours.argmax(1) == theirs.argmax(1)).all()


def test_llama_cpp_refuses_the_file_without_our_key(checkpoint: Maker, reference_gguf: Maker) -> None:
    reference = reference_gguf(checkpoint("qwen", dtype="f32"), "f32", pre=pre_tokenizer("qwen-tiktoken"))
    with pytest.raises(AssertionError, match=r"llama\.cpp refused"):
        llama_logits(reference, TOKENS)
