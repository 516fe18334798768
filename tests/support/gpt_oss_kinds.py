"""config.json of gpt-oss, as :mod:`tests.support.dense_kinds` has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# YaRN begins and ends within a ten thousandth of a whole dimension, so that llama.cpp, which rounds both, computes the
# same as transformers, which with truncate false does not.
_ROPE = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 32.0,
    "original_max_position_embeddings": 4378,
    "rope_type": "yarn",
    "truncate": False,
}
_GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "experts_per_token": 2,
    "head_dim": 64,
    "intermediate_size": 256,
    "max_position_embeddings": 131072,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": _ROPE,
    "rope_theta": 224776.1,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 8,
    "swiglu_limit": 7.0,
}

GPT_OSS: dict[str, Mapping[str, Any]] = {
    # Large enough that the limit of the activation shows.
    "gpt-oss": {"vocabulary": "harmony", "config": _GPT_OSS, "scaled": {"gate_up_proj": 6.0}},
}
