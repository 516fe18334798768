"""config.json of the dense families, as their repositories have it but for the sizes.

By name the arguments of :class:`tests.support.checkpoints.Kind`. Windows are shorter than what the tests generate, so
that a window that is lost shows. Lists with an entry for each layer are left out, so that a kind may have any number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.sights import CLIP_COLORS, PLAIN_COLORS, SCALED

_GELU = "gelu_pytorch_tanh"
_MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
}
MISTRAL_NEMO = {**_MISTRAL, "head_dim": 64, "rope_theta": 1000000.0, "sliding_window": None}
# The converter knows the second matrix of the projector in models of at least three layers.
PIXTRAL = {
    "model_type": "pixtral",
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "image_size": 112,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 14,
}
_CODE_QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000,
    "sliding_window": 65536,
    "use_sliding_window": False,
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 64,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
}
_GEMMA = {
    "architectures": ["GemmaForCausalLM"],
    "model_type": "gemma",
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": _GELU,
    "hidden_activation": _GELU,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
}
_GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "head_dim": 64,
    "hidden_act": _GELU,
    "hidden_activation": _GELU,
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 8,
}
_GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "head_dim": 64,
    "hidden_activation": _GELU,
    "max_position_embeddings": 32768,
    "num_hidden_layers": 6,
    "query_pre_attn_scalar": 64,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 1000000,
    "sliding_window": 8,
    "sliding_window_pattern": 6,
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "image_size": 56,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 14,
}
# As transformers 5 writes it, with settings for each kind of layer.
_GEMMA3_LAYERS = {
    **{key: value for key, value in _GEMMA3.items() if not key.startswith(("rope", "sliding_window_pattern"))},
    "final_logit_softcapping": 20.0,
    "rope_parameters": {
        "full_attention": {"factor": 8.0, "rope_theta": 1000000, "rope_type": "linear"},
        "sliding_attention": {"rope_theta": 10000, "rope_type": "default"},
    },
}
_PHI3 = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "attention_bias": False,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
}
_PHI3_LONG = {
    **_PHI3,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "long_factor": [1.0 + 0.75 * i for i in range(16)],
        "short_factor": [1.0 + 0.125 * i for i in range(16)],
        "type": "longrope",
    },
    "sliding_window": 262144,
}
_PHI4 = {
    **_PHI3,
    "max_position_embeddings": 16384,
    "original_max_position_embeddings": 16384,
    "rope_theta": 250000,
    "sliding_window": None,
}
_PHI4_MINI = {
    **_PHI3_LONG,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "long_factor": [1.0 + 0.75 * i for i in range(12)],
        "short_factor": [1.0] * 12,
        "type": "longrope",
    },
}
_GRANITE = {
    "architectures": ["GraniteForCausalLM"],
    "model_type": "granite",
    "attention_bias": False,
    "attention_multiplier": 0.0625,
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000000.0,
}
_SMOLLM3 = {
    "architectures": ["SmolLM3ForCausalLM"],
    "model_type": "smollm3",
    "attention_bias": False,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "num_hidden_layers": 5,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
_OLMO2 = {
    "architectures": ["Olmo2ForCausalLM"],
    "model_type": "olmo2",
    "attention_bias": False,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
}
_OLMO3 = {
    **_OLMO2,
    "architectures": ["Olmo3ForCausalLM"],
    "model_type": "olmo3",
    "max_position_embeddings": 65536,
    "num_hidden_layers": 4,
    "rope_scaling": {
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "yarn",
    },
    "sliding_window": 8,
}
# What was trained is shorter than what the tests generate, so that the scaling of queries shows.
_MINISTRAL3 = {
    "architectures": ["Ministral3ForCausalLM"],
    "model_type": "ministral3",
    "head_dim": 64,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 16.0,
        "llama_4_scaling_beta": 0.1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 10,
        "rope_theta": 1000000.0,
        "rope_type": "yarn",
        "type": "yarn",
    },
    "sliding_window": None,
}

DENSE: dict[str, Mapping[str, Any]] = {
    "mistral": {"vocabulary": "llama-spm", "config": _MISTRAL},
    "mistral-nemo": {"vocabulary": "tekken", "config": MISTRAL_NEMO},
    "mistral3": {
        "vocabulary": "tekken",
        "config": {**MISTRAL_NEMO, "architectures": ["Mistral3ForConditionalGeneration"]},
        "around": {"model_type": "mistral3", "spatial_merge_size": 2, "vision_config": PIXTRAL},
        "pictures": {**SCALED, **CLIP_COLORS, "patch_size": 14, "size": {"longest_edge": 56}},
    },
    "codeqwen": {"vocabulary": "llama-spm", "config": _CODE_QWEN},
    "qwen3": {"vocabulary": "qwen2", "config": _QWEN3, "tied": True},
    "gemma": {"vocabulary": "gemma-whole", "config": _GEMMA, "tied": True, "norm": 0.0},
    "gemma2": {"vocabulary": "gemma-spm", "config": _GEMMA2, "tied": True, "norm": 0.0},
    "gemma3": {"vocabulary": "gemma-spm", "config": _GEMMA3, "tied": True, "norm": 0.0},
    "gemma3-layers": {"vocabulary": "gemma-spm", "config": _GEMMA3_LAYERS, "tied": True, "norm": 0.0},
    "gemma3-sees": {
        "vocabulary": "gemma-spm",
        "config": {**_GEMMA3, "architectures": ["Gemma3ForConditionalGeneration"]},
        "tied": True,
        "norm": 0.0,
        "around": {"model_type": "gemma3", "mm_tokens_per_image": 4, "vision_config": _SIGLIP},
        "pictures": {**SCALED, **PLAIN_COLORS, "image_seq_length": 4, "size": {"height": 56, "width": 56}},
    },
    "phi3": {"vocabulary": "phi-3", "config": _PHI3},
    "phi3-long": {"vocabulary": "phi-3", "config": _PHI3_LONG},
    "phi4": {"vocabulary": "phi-4", "config": _PHI4},
    "phi4-mini": {"vocabulary": "phi-4", "config": _PHI4_MINI, "tied": True},
    "granite": {"vocabulary": "granite", "config": _GRANITE, "tied": True},
    "smollm3": {"vocabulary": "llama-bpe", "config": _SMOLLM3, "tied": True},
    "olmo2": {"vocabulary": "olmo2", "config": _OLMO2},
    "olmo3": {"vocabulary": "olmo2", "config": _OLMO3},
    "ministral3": {"vocabulary": "tekken", "config": _MINISTRAL3},
    "ministral3-sees": {
        "vocabulary": "tekken",
        "config": {**_MINISTRAL3, "architectures": ["Mistral3ForConditionalGeneration"]},
        "around": {"model_type": "mistral3", "vision_config": PIXTRAL},
        "pictures": {**SCALED, **CLIP_COLORS, "patch_size": 14, "size": {"longest_edge": 56}},
        "tied": True,
    },
}
