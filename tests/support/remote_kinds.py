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
# As Baichuan2-7B-Chat's. llama.cpp tells the 7B model from the 13B one by its layers, so they are narrow.
_BAICHUAN = {
    "architectures": ["BaichuanForCausalLM"],
    "model_type": "baichuan",
    "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
    "hidden_size": 128,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "model_max_length": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-06,
    "z_loss_weight": 0,
}
# As GLM-4-9B-chat's, but for the size of heads (kv_channels), which follows from the others. The sizes that tests
# change stand under transformers' names too.
_CHATGLM = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "auto_map": {"AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "layernorm_epsilon": 1.5625e-07,
    "multi_query_attention": True,
    "original_rope": True,
    "post_layer_norm": True,
    "rmsnorm": True,
    "rope_ratio": 500,
    "seq_length": 131072,
}


def _baichuan(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Llama's names, but for q, k and v, which are one matrix."""
    found = _minicpm({**config, "num_key_value_heads": config["num_attention_heads"]})
    rows, hidden = config["vocab_size"], config["hidden_size"]
    heads = tuple(f"{x}_proj.weight" for x in "qkv")
    layers = {
        f"model.layers.{i}.self_attn.W_pack.weight": (3 * hidden, hidden) for i in range(config["num_hidden_layers"])
    }
    kept = {name: shape for name, shape in found.items() if not name.endswith(heads)}
    return {**kept, **layers, "lm_head.weight": (rows, hidden)}


def _chatglm(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, rows = config["hidden_size"], config["ffn_hidden_size"], config["padded_vocab_size"]
    size = hidden // config["num_attention_heads"]
    heads = hidden + 2 * config["multi_query_group_num"] * size
    layer: dict[str, tuple[int, ...]] = {
        "self_attention.query_key_value.weight": (heads, hidden),
        "self_attention.query_key_value.bias": (heads,),
        "self_attention.dense.weight": (hidden, hidden),
        "mlp.dense_h_to_4h.weight": (2 * inner, hidden),
        "mlp.dense_4h_to_h.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    layers = range(config["num_layers"])
    tensors = {f"transformer.encoder.layers.{i}.{name}": shape for i in layers for name, shape in layer.items()}
    return {
        "transformer.embedding.word_embeddings.weight": (rows, hidden),
        **tensors,
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (rows, hidden),
        "transformer.rotary_pos_emb.inv_freq": (size // 4,),
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
    "baichuan": {
        "vocabulary": "llama-spm",
        "config": _BAICHUAN,
        "without": ("num_key_value_heads",),
        "shapes": _baichuan,
        "least": 32,
    },
    "chatglm": {
        "vocabulary": "glm4",
        "config": _CHATGLM,
        "without": ("hidden_act",),
        "equal": {
            "ffn_hidden_size": "intermediate_size",
            "multi_query_group_num": "num_key_value_heads",
            "num_layers": "num_hidden_layers",
            "padded_vocab_size": "vocab_size",
        },
        "shapes": _chatglm,
    },
    "internlm2": {"vocabulary": "llama-spm", "config": _INTERNLM2, "shapes": _internlm2},
}
