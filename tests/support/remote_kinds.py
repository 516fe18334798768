"""Families whose class comes with the model, so that transformers does not have it: config.json and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MINICPM = {
    "architectures": ["MiniCPMForCausalLM"],
    "model_type": "minicpm",
    "auto_map": {"AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"},
    "dim_model_base": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "scale_depth": 1.4,
    "scale_emb": 12,
}
_INTERNLM2 = {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
    "bias": False,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    "rope_theta": 1000000,
}


def _minicpm(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Llama's names, and no head: it is the embedding."""
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    layers = range(config["num_hidden_layers"])
    tensors = {f"model.layers.{i}.{name}": shape for i in layers for name, shape in layer.items()}
    return {"model.embed_tokens.weight": (rows, hidden), **tensors, "model.norm.weight": (hidden,)}


def _internlm2(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    layer: dict[str, tuple[int, ...]] = {
        "attention.wqkv.weight": (heads * hidden // config["num_attention_heads"], hidden),
        "attention.wo.weight": (hidden, hidden),
        "feed_forward.w1.weight": (inner, hidden),
        "feed_forward.w3.weight": (inner, hidden),
        "feed_forward.w2.weight": (hidden, inner),
        "attention_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
    }
    layers = range(config["num_hidden_layers"])
    tensors = {f"model.layers.{i}.{name}": shape for i in layers for name, shape in layer.items()}
    outside = {"model.tok_embeddings.weight": (rows, hidden), "output.weight": (rows, hidden)}
    return {**outside, **tensors, "model.norm.weight": (hidden,)}


REMOTE: dict[str, Mapping[str, Any]] = {
    "minicpm": {"vocabulary": "llama-spm", "config": _MINICPM, "tied": True, "shapes": _minicpm},
    "internlm2": {"vocabulary": "llama-spm", "config": _INTERNLM2, "shapes": _internlm2},
}
