"""config.json of the families with latent attention, as :mod:`tests.support.dense_kinds` has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LATENT = {
    "attention_bias": False,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 256,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 256,
    "moe_layer_freq": 1,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 8,
    "q_lora_rank": 256,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 32,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "v_head_dim": 128,
}
_DEEPSEEK_2 = {
    **_LATENT,
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "n_group": 1,
    "n_routed_experts": 4,
    "norm_topk_prob": False,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "topk_group": 1,
    "topk_method": "greedy",
}
_DEEPSEEK_3 = {
    **_LATENT,
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "n_group": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 1,
    "topk_method": "noaux_tc",
}
_GLM4_MOE_LITE = {
    **_LATENT,
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "max_position_embeddings": 202752,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.8,
    "topk_group": 1,
    "topk_method": "noaux_tc",
}
_MINICPM3 = {
    "architectures": ["MiniCPM3ForCausalLM"],
    "model_type": "minicpm3",
    "attention_bias": False,
    "dim_model_base": 256,
    "kv_lora_rank": 256,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "q_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "long_factor": [1.0 + 0.25 * i for i in range(16)],
        "original_max_position_embeddings": 32768,
        "short_factor": [1.0 + 0.25 * i for i in range(16)],
        "type": "longrope",
    },
    "scale_depth": 1.4,
    "scale_emb": 12,
}

LATENT: dict[str, Mapping[str, Any]] = {
    "deepseek-v2": {"vocabulary": "deepseek-v3", "config": _DEEPSEEK_2},
    "deepseek-v3": {"vocabulary": "deepseek-v3", "config": _DEEPSEEK_3, "mtp": True},
    "glm4-moe-lite": {"vocabulary": "glm4", "config": _GLM4_MOE_LITE, "mtp": True},
    "minicpm3": {"vocabulary": "llama-spm", "config": _MINICPM3},
}
