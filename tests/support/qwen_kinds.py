"""config.json of Qwen3-Next, Qwen3.5 and the Qwens that see, as their repositories have it but for the sizes.

By name the arguments of :class:`tests.support.checkpoints.Kind`; see :mod:`tests.support.dense_kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.qwen_sights import PICTURES_2, PICTURES_3, VISION_2, VISION_2_5, VISION_3, VISION_3_5

_DELTA_NET = {
    "attention_bias": False,
    "full_attention_interval": 2,
    "head_dim": 64,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,
    "linear_value_head_dim": 32,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-06,
}
_EXPERTS = {
    "moe_intermediate_size": 256,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 256,
}
_QWEN3_NEXT = {
    **_DELTA_NET,
    **_EXPERTS,
    "architectures": ["Qwen3NextForCausalLM"],
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "model_type": "qwen3_next",
    "norm_topk_prob": True,
    "partial_rotary_factor": 0.25,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "use_sliding_window": False,
}
_QWEN3_5 = {
    **_DELTA_NET,
    "architectures": ["Qwen3_5ForCausalLM"],
    "attn_output_gate": True,
    "layer_types": ["linear_attention", "full_attention"],
    "mamba_ssm_dtype": "float32",
    "model_type": "qwen3_5_text",
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [3, 3, 2],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
}
_QWEN3_5_MOE = {
    **_QWEN3_5,
    **_EXPERTS,
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "model_type": "qwen3_5_moe_text",
}


def _seeing(config: Mapping[str, Any], architecture: str, kind: str, vision: Mapping[str, Any]) -> dict[str, Any]:
    """The kind with the same language model in a model that also sees."""
    return {
        "config": {**config, "architectures": [architecture]},
        "around": {"model_type": kind, "vision_config": {**vision, "model_type": kind}},
        "within": "model.language_model",
    }


_QWEN2_VL = {
    "model_type": "qwen2_vl_text",
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "rms_norm_eps": 1e-12,  # llama.cpp reads none for this family, and takes 0
    "rope_scaling": {"mrope_section": [4, 6, 6], "type": "mrope"},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_sliding_window": False,
}
_QWEN3_VL = {
    "model_type": "qwen3_vl_text",
    "attention_bias": False,
    "head_dim": 64,
    "max_position_embeddings": 262144,
    "num_hidden_layers": 3,  # llama.cpp's last layer cannot take what the encoder saw deeper
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
    "rope_theta": 5000000,
}


def as_released(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors with the matrices of experts transposed, as the checkpoints of Qwen3-VL on the hub have them."""
    from tests.support.checkpoints import saved_shapes

    return {
        name: (shape[0], shape[2], shape[1]) if ".experts." in name else shape
        for name, shape in saved_shapes(config).items()
    }


QWEN: dict[str, Mapping[str, Any]] = {
    "qwen3-next": {"vocabulary": "qwen2", "config": _QWEN3_NEXT, "norm": 0.0, "mtp": True},
    "qwen3.5": {"vocabulary": "qwen35", "config": _QWEN3_5, "norm": 0.0, "mtp": False, "tied": True, "least": 2},
    "qwen3.5-sees": {
        "vocabulary": "qwen35",
        "norm": 0.0,
        "mtp": True,
        "pictures": PICTURES_3,
        **_seeing(_QWEN3_5, "Qwen3_5ForConditionalGeneration", "qwen3_5", VISION_3_5),
    },
    "qwen3.5-moe": {
        "vocabulary": "qwen35",
        "config": _QWEN3_5_MOE,
        "without": ("intermediate_size",),
        "norm": 0.0,
        "mtp": False,
    },
    "qwen3.5-moe-sees": {
        "vocabulary": "qwen35",
        "without": ("intermediate_size",),
        "norm": 0.0,
        "mtp": False,
        "pictures": PICTURES_3,
        **_seeing(_QWEN3_5_MOE, "Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", VISION_3_5),
    },
    "qwen2-vl": {
        "vocabulary": "qwen2",
        "pictures": PICTURES_2,
        **_seeing(_QWEN2_VL, "Qwen2VLForConditionalGeneration", "qwen2_vl", VISION_2),
    },
    "qwen2.5-vl": {
        "vocabulary": "qwen2",
        "pictures": PICTURES_2,
        **_seeing(
            {**_QWEN2_VL, "model_type": "qwen2_5_vl_text"},
            "Qwen2_5_VLForConditionalGeneration",
            "qwen2_5_vl",
            VISION_2_5,
        ),
    },
    "qwen3-vl": {
        "vocabulary": "qwen2",
        "pictures": PICTURES_3,
        "tied": True,
        **_seeing(_QWEN3_VL, "Qwen3VLForConditionalGeneration", "qwen3_vl", VISION_3),
    },
    "qwen3-vl-moe": {
        "vocabulary": "qwen2",
        "pictures": PICTURES_3,
        "shapes": as_released,
        **_seeing(
            {
                **_QWEN3_VL,
                "model_type": "qwen3_vl_moe_text",
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
                "moe_intermediate_size": 512,
                "norm_topk_prob": True,
                "num_experts": 3,
                "num_experts_per_tok": 2,
            },
            "Qwen3VLMoeForConditionalGeneration",
            "qwen3_vl_moe",
            VISION_3,
        ),
    },
}
