"""config.json of Gemma 3n and 4, as :mod:`tests.support.dense_kinds` has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GELU = "gelu_pytorch_tanh"
_GEMMA4 = {
    "architectures": ["Gemma4ForCausalLM"],
    "model_type": "gemma4_text",
    "attention_bias": False,
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 64,
    "head_dim": 32,
    "hidden_activation": _GELU,
    "hidden_size_per_layer_input": 256,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": None,
    "num_experts": None,
    "num_global_key_value_heads": None,
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 2,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 8,
    "top_k_experts": None,
    "use_bidirectional_attention": None,
    "use_double_wide_mlp": True,
    "vocab_size_per_layer_input": 2000,
}
_PATTERN = ["sliding_attention", "full_attention"]
_GEMMA4_E = {
    "vocabulary": "gemma-4",
    "config": {**_GEMMA4, "layer_types": [*_PATTERN, *_PATTERN]},
    "tied": True,
    "least": 4,
    "equal": {"vocab_size_per_layer_input": "vocab_size"},
}
# The 31B and 26B models: keys that are values too, fewer of them in layers with the whole context.
_GEMMA4_LARGE = {
    **_GEMMA4,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_hidden_layers": 6,
    "num_global_key_value_heads": 2,
    "num_key_value_heads": 4,
    "num_kv_shared_layers": 0,
    "use_bidirectional_attention": "vision",
    "use_double_wide_mlp": False,
}
_GEMMA4_MOE = {
    **_GEMMA4_LARGE,
    "enable_moe_block": True,
    "moe_intermediate_size": 256,
    "num_experts": 4,
    "num_hidden_layers": 2,
    "top_k_experts": 2,
}
_GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "head_dim": 16,
    "hidden_activation": _GELU,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "patch_size": 4,
    "pooling_kernel_size": 3,
    "position_embedding_size": 32,
    "standardize": True,
    "use_clipped_linears": True,
}
_GEMMA4_PICTURES = {
    "do_normalize": False,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.0, 0.0, 0.0],
    "image_std": [1.0, 1.0, 1.0],
    "max_soft_tokens": 280,
    "patch_size": 4,
    "pooling_kernel_size": 3,
    "rescale_factor": 1 / 255,
}
_GEMMA4_UNIFIED = {
    key: value for key, value in _GEMMA4_LARGE.items() if not key.endswith(("per_layer_input", "experts", "moe_block"))
}
_GEMMA4_AUDIO = {
    "model_type": "gemma4_audio",
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "output_proj_dims": 48,
    "subsampling_conv_channels": [128, 4],
}
_LIMITS = {"input_min": -2.0, "input_max": 2.0, "output_min": -1.5, "output_max": 1.5}
GEMMA4_HEARS = {
    **_GEMMA4_E,
    "config": {
        **_GEMMA4,
        "architectures": ["Gemma4ForConditionalGeneration"],
        "layer_types": [*_PATTERN, *_PATTERN],
        "use_bidirectional_attention": "vision",  # which llama.cpp takes from the width of the language model
    },
    "around": {"model_type": "gemma4", "audio_config": _GEMMA4_AUDIO, "vision_config": _GEMMA4_VISION},
    "within": "model.language_model",
    "pictures": _GEMMA4_PICTURES,
    "scaled": _LIMITS,
}
"""E2B and E4B, which also hear; their language model has a row in the parity matrix without the rest."""

# llama.cpp's graph has the numbers of the published models: 20 layers have keys of their own, ten are sparse.
_GEMMA3N = {
    "architectures": ["Gemma3nForCausalLM"],
    "model_type": "gemma3n_text",
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 12,
    "altup_active_idx": 0,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_num_inputs": 4,
    "attention_bias": False,
    "final_logit_softcapping": 30.0,
    "head_dim": 16,
    "hidden_activation": _GELU,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 256,
    "laurel_rank": 64,
    "max_position_embeddings": 32768,
    "num_hidden_layers": 22,
    "num_kv_shared_layers": 2,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_theta": 1000000.0,
    "sliding_window": 8,
    "vocab_size_per_layer_input": 256,
}


def _idle(config: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
    """Tensors of published checkpoints that nobody reads, but llama.cpp wants them."""
    shapes: dict[str, tuple[int, ...]] = {}
    rows = config["num_key_value_heads"] * config["head_dim"]
    for layer in range(config["num_hidden_layers"] - config["num_kv_shared_layers"], config["num_hidden_layers"]):
        before = f"model.layers.{layer}.self_attn"
        shapes |= {f"{before}.{name}_proj.weight": (rows, config["hidden_size"]) for name in "kv"}
        shapes[f"{before}.k_norm.weight"] = (config["head_dim"],)
    return shapes


GEMMA: dict[str, Mapping[str, Any]] = {
    "gemma3n": {
        "vocabulary": "gemma-spm",
        "config": _GEMMA3N,
        "tied": True,
        "added": _idle,
        "fewer": {"num_kv_shared_layers": 0},
        "equal": {"vocab_size_per_layer_input": "vocab_size"},
    },
    "gemma3n-sees": {
        "vocabulary": "gemma-spm",
        "config": {
            **_GEMMA3N,
            "architectures": ["Gemma3nForConditionalGeneration"],
            "num_hidden_layers": 2,
            "num_kv_shared_layers": 0,
        },
        "tied": True,
        "equal": {"vocab_size_per_layer_input": "vocab_size"},
        "around": {"model_type": "gemma3n", "audio_config": None, "vision_config": {"model_type": "gemma3n_vision"}},
        "within": "model.language_model",
        "sight": lambda config: {"model.vision_tower.timm_model.conv_stem.conv.weight": (8, 3, 3, 3)},
    },
    "gemma4": _GEMMA4_E,
    "gemma4-large": {"vocabulary": "gemma-4", "config": _GEMMA4_LARGE, "tied": True},
    "gemma4-moe": {"vocabulary": "gemma-4", "config": _GEMMA4_MOE, "tied": True},
    "gemma4-sees": {
        "vocabulary": "gemma-4",
        "config": {
            **_GEMMA4_LARGE,
            "architectures": ["Gemma4ForConditionalGeneration"],
            "layer_types": [*_PATTERN, *_PATTERN, *_PATTERN],
        },
        "tied": True,
        "least": 2,
        "around": {"model_type": "gemma4", "audio_config": None, "vision_config": _GEMMA4_VISION},
        "within": "model.language_model",
        "pictures": _GEMMA4_PICTURES,
        "scaled": _LIMITS,
    },
    "gemma4-unified": {
        "vocabulary": "gemma-4",
        "config": {
            **_GEMMA4_UNIFIED,
            "architectures": ["Gemma4UnifiedForConditionalGeneration"],
            "model_type": "gemma4_unified_text",
        },
        "tied": True,
        "around": {
            "model_type": "gemma4_unified",
            "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 640},
            "vision_config": {
                "model_type": "gemma4_unified_vision",
                "mm_embed_dim": 48,
                "mm_posemb_size": 40,
                "output_proj_dims": 48,
                "patch_size": 4,
                "pooling_kernel_size": 3,
            },
        },
        "within": "model.language_model",
        "pictures": _GEMMA4_PICTURES,
    },
}
