"""config.json of families that mix kinds of layers, as :mod:`tests.support.dense_kinds` has the others'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LFM2 = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 640,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [1],
    "max_position_embeddings": 128000,
    "norm_eps": 1e-05,
    "num_hidden_layers": 3,
    "rope_theta": 1000000.0,
    "tie_embedding": True,
}
_LFM2_MOE = {
    "architectures": ["Lfm2MoeForCausalLM"],
    "model_type": "lfm2_moe",
    "conv_L_cache": 3,
    "conv_bias": False,
    "layer_types": ["conv", "full_attention", "conv"],
    "max_position_embeddings": 128000,
    "moe_intermediate_size": 256,
    "norm_eps": 1e-05,
    "norm_topk_prob": True,
    "num_dense_layers": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "rope_theta": 1000000.0,
    "routed_scaling_factor": 1.0,
    "use_expert_bias": True,
}
_FALCON_H1 = {
    "architectures": ["FalconH1ForCausalLM"],
    "model_type": "falcon_h1",
    "attention_bias": False,
    "attention_in_multiplier": 0.75,
    "attention_out_multiplier": 0.9375,
    "embedding_multiplier": 5.656854249492381,
    "head_dim": 64,
    "key_multiplier": 0.390625,
    "lm_head_multiplier": 0.1953125,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 64,
    "mamba_d_ssm": 384,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_n_groups": 2,
    "mamba_n_heads": 6,
    "mamba_norm_before_gate": False,
    "mamba_proj_bias": False,
    "mamba_rms_norm": True,
    "max_position_embeddings": 16384,
    "mlp_bias": False,
    "mlp_multipliers": [0.8838834764831844, 0.5859375],
    "projectors_bias": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000000000.0,
    "ssm_in_multiplier": 1.25,
    "ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
    "ssm_out_multiplier": 0.23570226039551587,
}

HYBRID: dict[str, Mapping[str, Any]] = {
    "lfm2": {"vocabulary": "llama-bpe", "config": _LFM2, "tied": True, "least": 2},
    "lfm2-moe": {"vocabulary": "llama-bpe", "config": _LFM2_MOE, "tied": True, "least": 2},
    "falcon-h1": {"vocabulary": "llama-bpe", "config": _FALCON_H1},
}
