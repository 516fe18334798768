"""config.json of Qwen's vision models, as their repositories have it but for the sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.sights import CLIP_COLORS, PLAIN_COLORS, SCALED

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 32768,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "vocab_size": 256,
}
_PICTURES = {
    **SCALED,
    **CLIP_COLORS,
    "max_pixels": 12845056,
    "merge_size": 2,
    "min_pixels": 3136,
    "patch_size": 14,
    "temporal_patch_size": 2,
}
_PICTURES_3 = {**_PICTURES, **PLAIN_COLORS, "patch_size": 16}
# The converter knows the second matrix of the merger in models of at least three layers.
_SIGHT = {"depth": 4, "in_channels": 3, "num_heads": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
_SIGHT_3 = {
    **_SIGHT,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_position_embeddings": 16,
    "out_hidden_size": 64,
    "patch_size": 16,
}

QWEN_SIGHTS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "qwen2-vl": (
        {
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "model_type": "qwen2_vl",
            "text_config": {**_TEXT, "model_type": "qwen2_vl_text"},
            "vision_config": {
                **_SIGHT,
                "embed_dim": 32,
                "hidden_act": "quick_gelu",
                "hidden_size": 64,
                "mlp_ratio": 4,
                "model_type": "qwen2_vl",
                "patch_size": 14,
            },
        },
        _PICTURES,
    ),
    "qwen2.5-vl": (
        {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "text_config": {**_TEXT, "model_type": "qwen2_5_vl_text"},
            "vision_config": {
                **_SIGHT,
                "fullatt_block_indexes": [1, 3],
                "hidden_act": "silu",
                "hidden_size": 32,
                "intermediate_size": 48,
                "model_type": "qwen2_5_vl",
                "out_hidden_size": 64,
                "patch_size": 14,
                "window_size": 112,
            },
        },
        _PICTURES,
    ),
    "qwen3-vl": (
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "text_config": {**_TEXT, "head_dim": 32, "model_type": "qwen3_vl_text"},
            "vision_config": {**_SIGHT_3, "deepstack_visual_indexes": [1, 3], "model_type": "qwen3_vl"},
        },
        _PICTURES_3,
    ),
}
"""By name config.json, and preprocessor_config.json."""
