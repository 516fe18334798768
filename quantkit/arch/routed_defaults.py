"""The part of :data:`quantkit.arch.class_defaults.CLASS_DEFAULTS` for GLM, DeepSeek and families like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GLM = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-7,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
}

ROUTED: Mapping[str, Mapping[str, Any]] = {
    "glm": _GLM,
    "glm4": {**_GLM},
    "glm4_moe": {
        **{key: value for key, value in _GLM.items() if key not in ("head_dim", "attention_bias")},
        "intermediate_size": 10944,
        "num_hidden_layers": 46,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "moe_intermediate_size": 1408,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "n_routed_experts": 128,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": 1,
    },
}
