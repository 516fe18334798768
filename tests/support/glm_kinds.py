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
_GLM4V = {
    **{key: value for key, value in _GLM4.items() if key not in ("attention_bias", "head_dim")},
    "architectures": ["Glm4vForConditionalGeneration"],
    "model_type": "glm4v_text",
    "rope_scaling": {"mrope_section": [2, 3, 3], "partial_rotary_factor": 0.5, "rope_type": "default"},
}
_GLM4V_MOE = {
    **{key: value for key, value in _GLM4_MOE.items() if key not in ("use_qk_norm", "num_nextn_predict_layers")},
    "architectures": ["Glm4vMoeForConditionalGeneration"],
    "model_type": "glm4v_moe_text",
    "rope_scaling": {"mrope_section": [4, 6, 6], "rope_type": "default"},
}
_SIGHT = {
    "depth": 1,
    "hidden_size": 32,
    "image_size": 56,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 256,
    "patch_size": 14,
}


def each_expert(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors with a matrix for each expert, as the checkpoints of GLM-4.5V on the hub have them."""
    from tests.support.checkpoints import saved_shapes

    found: dict[str, tuple[int, ...]] = {}
    for name, shape in saved_shapes(config).items():
        module, _, kind = name.rpartition(".experts.")
        rows, columns = shape[-2:] if module else (0, 0)
        parts = {"gate_proj": rows // 2, "up_proj": rows // 2} if kind == "gate_up_proj" else {kind: rows}
        found |= {
            f"{module}.experts.{i}.{part}.weight": (count, columns)
            for i in range(shape[0] if module else 0)
            for part, count in parts.items()
        } or {name: shape}
    return found


GLM: dict[str, Mapping[str, Any]] = {
    "glm": {"vocabulary": "glm4", "config": _GLM},
    "glm4": {"vocabulary": "glm4", "config": _GLM4},
    "glm4-moe": {"vocabulary": "glm4", "config": _GLM4_MOE, "mtp": True},
    "glm4v": {
        "vocabulary": "glm4",
        "config": _GLM4V,
        "around": {"model_type": "glm4v", "vision_config": {**_SIGHT, "model_type": "glm4v_vision"}},
        "within": "model.language_model",
    },
    "glm4v-moe": {
        "vocabulary": "glm4",
        "config": _GLM4V_MOE,
        "shapes": each_expert,
        "around": {"model_type": "glm4v_moe", "vision_config": {**_SIGHT, "model_type": "glm4v_moe_vision"}},
        "within": "model.language_model",
    },
}
