"""config.json of further families, as :mod:`tests.support.dense_kinds` has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SEED_OSS = {
    "architectures": ["SeedOssForCausalLM"],
    "model_type": "seed_oss",
    "attention_bias": True,
    "attention_out_bias": False,
    "head_dim": 64,
    "max_position_embeddings": 524288,
    "mlp_bias": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"rope_type": "default"},
    "rope_theta": 10000000.0,
}
_ERNIE = {
    "architectures": ["Ernie4_5ForCausalLM"],
    "model_type": "ernie4_5",
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_bias": False,
}
_ERNIE_MOE = {
    **{key: value for key, value in _ERNIE.items() if key != "head_dim"},
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "model_type": "ernie4_5_moe",
    "intermediate_size": 2048,  # a multiple of the shared experts' width, as in the released models
    "moe_intermediate_size": 256,
    "moe_k": 2,
    "moe_layer_end_index": -1,
    "moe_layer_interval": 1,
    "moe_layer_start_index": 1,
    "moe_num_experts": 4,
    "moe_num_shared_experts": 2,
}
_HUNYUAN = {
    "architectures": ["HunYuanDenseV1ForCausalLM"],
    "model_type": "hunyuan_v1_dense",
    "attention_bias": False,
    "eod_token_id": 1001,
    "head_dim": 64,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    "rope_theta": 10000.0,
}
# The converter takes heads of 128 for granted, and lists.
_HUNYUAN_MOE = {
    "architectures": ["HunYuanMoEV1ForCausalLM"],
    "model_type": "hunyuan_v1_moe",
    "attention_bias": False,
    "attention_head_dim": 128,
    "head_dim": 128,
    "intermediate_size": 256,
    "max_position_embeddings": 32768,
    "moe_intermediate_size": [256, 256],
    "moe_layer_num_skipped": 0,
    "moe_topk": [2, 2],
    "norm_topk_prob": True,
    "num_attention_heads": 2,
    "num_experts": 4,
    "num_key_value_heads": 1,
    "num_shared_expert": [1, 1],
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    "rope_theta": 10000.0,
    "use_mixed_mlp_moe": True,
    "use_qk_norm": True,
}
_EXAONE4 = {
    "architectures": ["Exaone4ForCausalLM"],
    "model_type": "exaone4",
    "head_dim": 32,
    "layer_types": ["full_attention"] * 2,
    "max_position_embeddings": 65536,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 1000000,
    "sliding_window": None,
    "sliding_window_pattern": None,
}
_COHERE = {
    "architectures": ["CohereForCausalLM"],
    "model_type": "cohere",
    "attention_bias": False,
    "layer_norm_eps": 1e-05,
    "logit_scale": 0.0625,
    "max_position_embeddings": 8192,
    "model_max_length": 131072,
    "rope_theta": 8000000.0,
    "use_qk_norm": False,
}
_COHERE2 = {
    "architectures": ["Cohere2ForCausalLM"],
    "model_type": "cohere2",
    "attention_bias": False,
    "layer_norm_eps": 1e-05,
    "logit_scale": 0.25,
    "max_position_embeddings": 8192,
    "num_hidden_layers": 4,
    "rope_theta": 50000,
    "rotary_pct": 1.0,
    "sliding_window": 8,
    "sliding_window_pattern": 4,
}
_STABLELM = {
    "architectures": ["StableLmForCausalLM"],
    "model_type": "stablelm",
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "partial_rotary_factor": 0.25,
    "rope_theta": 10000,
    "use_parallel_residual": False,
    "use_qkv_bias": True,
}
_NEMOTRON = {
    "architectures": ["NemotronForCausalLM"],
    "model_type": "nemotron",
    "attention_bias": False,
    "hidden_act": "relu2",
    "max_position_embeddings": 4096,
    "mlp_bias": False,
    "norm_eps": 1e-05,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000,
}
_INTERNLM3 = {
    "architectures": ["InternLM3ForCausalLM"],
    "model_type": "internlm3",
    "bias": False,
    "head_dim": 32,
    "max_position_embeddings": 32768,
    "qkv_bias": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
    "rope_theta": 50000000,
}
_OLMOE = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "attention_bias": False,
    "clip_qkv": None,
    "max_position_embeddings": 4096,
    "norm_topk_prob": False,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
}
_ARCEE = {
    "architectures": ["ArceeForCausalLM"],
    "model_type": "arcee",
    "attention_bias": False,
    "head_dim": 32,
    "hidden_act": "relu2",
    "max_position_embeddings": 65536,
    "mlp_bias": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 20.0,
        "mscale": 1.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
    },
    "rope_theta": 10000.0,
}
_STARCODER2 = {
    "architectures": ["Starcoder2ForCausalLM"],
    "model_type": "starcoder2",
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 16384,
    "norm_epsilon": 1e-05,
    "rope_theta": 999999.4420358813,
    "sliding_window": 4096,
    "use_bias": True,
}
_PHI = {
    "architectures": ["PhiForCausalLM"],
    "model_type": "phi",
    "hidden_act": "gelu_new",
    "intermediate_size": 1024,  # four times the width, as the converter takes it for granted
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "partial_rotary_factor": 0.5,
    "qk_layernorm": False,
    "rope_scaling": None,
    "rope_theta": 10000.0,
}

STOCK: dict[str, Mapping[str, Any]] = {
    "seed-oss": {"vocabulary": "seed-coder", "config": _SEED_OSS},
    "ernie4.5": {"vocabulary": "llama-spm", "config": _ERNIE, "tied": True},
    "ernie4.5-moe": {"vocabulary": "llama-spm", "config": _ERNIE_MOE, "tied": True},
    "hunyuan": {"vocabulary": "deepseek-v3", "config": _HUNYUAN, "tied": True},
    "hunyuan-moe": {"vocabulary": "hy-tiktoken", "config": _HUNYUAN_MOE, "tied": True},
    "exaone4": {"vocabulary": "gpt-2", "config": _EXAONE4, "tied": True},
    "cohere": {"vocabulary": "command-r", "config": _COHERE, "tied": True},
    "cohere2": {"vocabulary": "command-r", "config": _COHERE2, "tied": True},
    "stablelm": {"vocabulary": "qwen2", "config": _STABLELM},
    "stablelm-parallel": {"vocabulary": "qwen2", "config": {**_STABLELM, "use_parallel_residual": True}},
    "nemotron": {"vocabulary": "llama-spm", "config": _NEMOTRON, "norm": 0.0},
    "olmoe": {"vocabulary": "olmo2", "config": _OLMOE, "without": ("num_key_value_heads",)},
    "arcee": {"vocabulary": "llama-bpe", "config": _ARCEE},
    "starcoder2": {"vocabulary": "refact", "config": _STARCODER2, "tied": True},
    "phi2": {"vocabulary": "gpt-2", "config": _PHI, "without": ("num_key_value_heads",)},
    "internlm3": {"vocabulary": "llama-spm", "config": _INTERNLM3},
}
