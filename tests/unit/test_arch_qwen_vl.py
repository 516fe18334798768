"""The language models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: sections of M-RoPE, deepstack, stacks of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from quantkit.arch.families import ARCHITECTURES
from quantkit.errors import ArchitectureError

VL: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "intermediate_size": 96,
    "head_dim": 8,
}


def vl_metadata(name: str, **changes: Any) -> dict[str, Any]:
    architecture = ARCHITECTURES[name]
    entries = architecture.metadata(architecture.settings({**VL, **changes}))
    return {entry.key.removeprefix(f"{architecture.name}."): entry.value for entry in entries}


def test_language_models_that_see() -> None:
    mrope = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}, "rope_theta": 1e6}
    for name in ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"):
        found = vl_metadata(name, **mrope)
        assert (found["rope.dimension_sections"], found["rope.freq_base"]) == ([2, 1, 1, 0], 1e6)
        assert not any(key.startswith("rope.scaling") for key in found)
        with pytest.raises(ArchitectureError, match="mrope_section is"):
            vl_metadata(name, rope_theta=1e6)
    qwen3 = "Qwen3VLForConditionalGeneration"
    deep = {"vision_config": {"deepstack_visual_indexes": [5, 11]}}
    assert vl_metadata(qwen3, **mrope, **deep)["n_deepstack_layers"] == 2
    assert vl_metadata(qwen3, **mrope, vision_config={})["n_deepstack_layers"] == 3  # transformers' default
    assert vl_metadata(qwen3, **mrope)["n_deepstack_layers"] == 0
    with pytest.raises(ArchitectureError, match="deepstack_visual_indexes is 3"):
        vl_metadata(qwen3, **mrope, vision_config={"deepstack_visual_indexes": 3})
    with pytest.raises(ArchitectureError, match="attention_bias"):
        vl_metadata(qwen3, **mrope, attention_bias=True)


def test_slow_pairs_are_interpolated_with_the_context() -> None:
    """Qwen3-VL leaves two of its pairs to a number that is 0 in a text, which YaRN does not change."""
    qwen3, trained = "Qwen3VLForConditionalGeneration", 262144
    own = {"mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_theta": 5e6}
    stretched = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": trained}
    long = {"head_dim": 128, "max_position_embeddings": 4 * trained}
    assert vl_metadata(qwen3, **long, rope_parameters={**own, **stretched})["rope.scaling.factor"] == 4.0
    with pytest.raises(ArchitectureError, match="does not rotate pair 61"):
        vl_metadata(qwen3, **long, rope_parameters=own)
    with pytest.raises(ArchitectureError, match="does not rotate pair 61"):
        vl_metadata(
            qwen3, **long, rope_parameters={**own, **stretched, "original_max_position_embeddings": 4 * trained}
        )


def test_stacks_that_may_be_transposed_have_no_square_matrices() -> None:
    name = "Qwen3VLMoeForConditionalGeneration"
    config = {
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "rope_parameters": {"mrope_section": [2, 1, 1], "rope_theta": 5e6},
        "vision_config": {"deepstack_visual_indexes": [1]},
        "moe_intermediate_size": 48,
    }
    values = vl_metadata(name, **config)
    expected = {
        "expert_count": 3,
        "expert_used_count": 2,
        "expert_feed_forward_length": 48,
        "rope.dimension_sections": [2, 1, 1, 0],
        "n_deepstack_layers": 1,
    }
    assert {key: values[key] for key in expected} == expected
    for changes, said in (
        ({"moe_intermediate_size": 64}, "hidden_size 64 with moe_intermediate_size 64 is not"),
        ({"moe_intermediate_size": 32}, "hidden_size 64 with moe_intermediate_size 32 is not"),
        ({"norm_topk_prob": False}, "norm_topk_prob False"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"attention_bias": True}, "attention_bias"),
    ):
        with pytest.raises(ArchitectureError, match=said):
            vl_metadata(name, **{**config, **changes})
