"""config.json of models that also see and whose language model is one that has a row in the parity matrix already.

By name the arguments of :class:`tests.support.checkpoints.Kind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.dense_kinds import MISTRAL_NEMO, PIXTRAL
from tests.support.gemma_kinds import GEMMA4_HEARS
from tests.support.sights import CLIP_COLORS, IMAGENET_COLORS, PLAIN_COLORS, SCALED, internvl_shapes

_SMOLVLM = {
    "model_type": "llama",
    "attention_bias": False,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000,
}
_SMOLVLM_SIGHT = {
    "model_type": "smolvlm_vision",
    "hidden_size": 32,
    "image_size": 56,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 14,
}
_QWEN25 = {
    "model_type": "qwen2",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
_INTERN_SIGHT = {
    "architectures": ["InternVisionModel"],
    "model_type": "intern_vit_6b",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "image_size": 56,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-06,
    "norm_type": "layer_norm",
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 4,
    "patch_size": 14,
    "qk_normalization": False,
    "qkv_bias": True,
}
_INTERN_HF_SIGHT = {
    "architectures": ["InternVisionModel"],
    "model_type": "internvl_vision",
    "attention_bias": True,
    "hidden_act": "gelu",
    "hidden_size": 32,
    "image_size": [56, 56],
    "intermediate_size": 48,
    "layer_norm_eps": 1e-06,
    "norm_type": "layer_norm",
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "patch_size": [14, 14],
    "use_qk_norm": False,
}
SEEING: dict[str, Mapping[str, Any]] = {
    "gemma4-hears": GEMMA4_HEARS,
    "pixtral": {
        "vocabulary": "tekken",
        "config": {**MISTRAL_NEMO, "architectures": ["LlavaForConditionalGeneration"]},
        "around": {
            "model_type": "llava",
            "image_seq_length": 1,
            "multimodal_projector_bias": True,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_config": {**PIXTRAL, "hidden_act": "gelu"},
        },
        "pictures": {**SCALED, **CLIP_COLORS, "patch_size": 14, "size": {"longest_edge": 56}},
    },
    "smolvlm": {
        "vocabulary": "llama-bpe",
        "config": {**_SMOLVLM, "architectures": ["SmolVLMForConditionalGeneration"]},
        "around": {"model_type": "smolvlm", "scale_factor": 2, "vision_config": _SMOLVLM_SIGHT},
        "within": "model.text_model",
        "speaks": "VLlama3ForCausalLM",
        "pictures": {**SCALED, **PLAIN_COLORS, "size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}},
    },
    "idefics3": {
        "vocabulary": "llama-bpe",
        "config": {**_SMOLVLM, "architectures": ["Idefics3ForConditionalGeneration"]},
        "around": {
            "model_type": "idefics3",
            "scale_factor": 2,
            "vision_config": {**_SMOLVLM_SIGHT, "model_type": "idefics3_vision"},
        },
        "within": "model.text_model",
        "speaks": "LlamaForCausalLM",
        "pictures": {**SCALED, **PLAIN_COLORS, "size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 56}},
    },
    "internvl": {
        "vocabulary": "qwen2",
        "config": {**_QWEN25, "architectures": ["InternVLChatModel"]},
        "around": {
            "model_type": "internvl_chat",
            "downsample_ratio": 0.5,
            "dynamic_image_size": True,
            "max_dynamic_patch": 12,
            "min_dynamic_patch": 1,
            "ps_version": "v2",
            "select_layer": -1,
            "use_thumbnail": True,
            "vision_config": _INTERN_SIGHT,
        },
        "inside": "llm_config",
        "speaks": "Qwen2ForCausalLM",
        "pictures": {**SCALED, **IMAGENET_COLORS, "crop_size": 56, "size": 56},
        "sight": internvl_shapes,
    },
    "internvl-hf": {
        "vocabulary": "qwen2",
        "config": {**_QWEN25, "architectures": ["InternVLForConditionalGeneration"]},
        "around": {
            "model_type": "internvl",
            "downsample_ratio": 0.5,
            "image_seq_length": 4,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "vision_config": _INTERN_HF_SIGHT,
        },
        "speaks": "Qwen2ForCausalLM",
        "pictures": {**SCALED, **IMAGENET_COLORS, "max_patches": 12, "min_patches": 1, "crop_to_patches": False},
    },
}
