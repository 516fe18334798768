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

HYBRID: dict[str, Mapping[str, Any]] = {
    "lfm2": {"vocabulary": "llama-bpe", "config": _LFM2, "tied": True, "least": 2},
    "lfm2-moe": {"vocabulary": "llama-bpe", "config": _LFM2_MOE, "tied": True, "least": 2},
}
