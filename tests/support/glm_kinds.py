"""config.json of the GLM families, as :mod:`tests.support.dense_kinds` has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GLM = {
    "architectures": ["GlmForCausalLM"],
    "model_type": "glm",
    "attention_bias": True,
    "head_dim": 32,
    # What llama.cpp's converter writes for it, whatever config.json says: see docs/differences.md.
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
}
_GLM4 = {
    **_GLM,
    "architectures": ["Glm4ForCausalLM"],
    "model_type": "glm4",
    "head_dim": 64,
    "max_position_embeddings": 32768,
}
_GLM4_MOE = {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "attention_bias": True,
    "first_k_dense_replace": 1,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 256,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 2,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.5,
    "topk_group": 1,
    "use_qk_norm": True,
}

GLM: dict[str, Mapping[str, Any]] = {
    "glm": {"vocabulary": "glm4", "config": _GLM},
    "glm4": {"vocabulary": "glm4", "config": _GLM4},
    "glm4-moe": {"vocabulary": "glm4", "config": _GLM4_MOE, "mtp": True},
}
