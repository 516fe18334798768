"""Seed-OSS, ERNIE 4.5, Hunyuan, EXAONE 4, Command R, StableLM and others: what their graphs do not compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quantkit.arch.base import Rule
from quantkit.arch.families import ARCHITECTURES
from quantkit.errors import ArchitectureError
from tests.unit.test_arch_experts import metadata as sparse_metadata
from tests.unit.test_arch_experts import rules as sparse_rules
from tests.unit.test_arch_families import PLAIN, family, metadata, shapes

WINDOWS = {"num_hidden_layers": 64, "sliding_window": 4096}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


def test_a_base_that_was_stretched_once_and_for_all() -> None:
    scaling = {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0}
    found = metadata("HunYuanDenseV1ForCausalLM", rope_scaling=scaling, max_position_embeddings=32768, head_dim=128)
    assert found["rope.freq_base"] == pytest.approx(11158839.9251)
    assert (found["context_length"], found["rope.scaling.type"]) == (262144, "none")
    for change in ({"rope_theta": 20000.0}, {"max_position_embeddings": 8192}):
        with pytest.raises(ArchitectureError, match="|".join(change)):
            metadata("HunYuanDenseV1ForCausalLM", rope_scaling=scaling, **{"max_position_embeddings": 32768, **change})


def test_windows_of_the_large_exaone() -> None:
    found = metadata("Exaone4ForCausalLM", **WINDOWS)
    assert found["attention.sliding_window"] == 4096
    assert found["attention.sliding_window_pattern"] == [True, True, True, False] * 16
    assert metadata("Exaone4ForCausalLM", **WINDOWS, sliding_window_pattern="LLLG") == found


def test_norms_of_q_and_k_of_the_large_command_r() -> None:
    large = {"num_hidden_layers": 64, "use_qk_norm": True}
    assert metadata("CohereForCausalLM", **large)["block_count"] == 64
    found = shapes("CohereForCausalLM", **large)
    assert (found["attn_q_norm.weight"], found["attn_k_norm.weight"]) == ((8, 8), (2, 8))
    assert "attn_q_norm.weight" not in shapes("CohereForCausalLM")
    assert metadata("CohereForCausalLM", model_max_length=131072)["context_length"] == 131072


def test_one_norm_for_attention_and_mlp() -> None:
    assert metadata("StableLmForCausalLM", use_parallel_residual=True)["use_parallel_residual"] is True
    found = shapes("StableLmForCausalLM", use_parallel_residual=True, use_qkv_bias=True)
    assert "ffn_norm.weight" not in found
    assert found["attn_k.bias"] == (16,)


def test_the_scaling_that_only_begins_beyond_the_context() -> None:
    scaling = {"rope_scaling": {"rope_type": "dynamic", "factor": 6.0}, "rope_theta": 5e7}
    assert metadata("InternLM3ForCausalLM", **scaling) == metadata("InternLM3ForCausalLM", rope_theta=5e7)
    architecture, config = family("InternLM3ForCausalLM", **scaling)
    assert "beyond 8192 tokens" in architecture.notes(config)[0]
    assert architecture.notes(family("InternLM3ForCausalLM")[1]) == []


def test_ernie_with_experts() -> None:
    found = sparse_rules("Ernie4_5_MoeForCausalLM")
    assert found["ffn_up_shexp.weight"].shape == (64, 64)
    bias = found["exp_probs_b.bias"]
    assert (bias.source, bias.shape) == ("model.layers.1.mlp.moe_statics.e_score_correction_bias", (1, 4))
    alone = {"moe_num_shared_experts": 0}
    assert "ffn_up_shexp.weight" not in sparse_rules("Ernie4_5_MoeForCausalLM", **alone)
    values = sparse_metadata("Ernie4_5_MoeForCausalLM", intermediate_size=128)
    assert values["expert_shared_feed_forward_length"] == 64  # whatever the other sizes are
    assert "expert_shared_feed_forward_length" not in sparse_metadata("Ernie4_5_MoeForCausalLM", **alone)


def test_hunyuan_with_experts() -> None:
    found = sparse_metadata("HunYuanMoEV1ForCausalLM")
    assert (found["expert_used_count"], found["expert_shared_feed_forward_length"]) == (2, 96)
    assert sparse_metadata("HunYuanMoEV1ForCausalLM", moe_topk=1)["expert_used_count"] == 1
    router = sparse_rules("HunYuanMoEV1ForCausalLM")["ffn_gate_inp.weight"]
    assert router.source == "model.layers.1.mlp.gate.wg.weight"


@pytest.mark.parametrize(
    "change",
    [
        {"moe_topk": [1, 2]},
        {"moe_topk": [4, 4]},
        {"moe_intermediate_size": [64, 64]},
        {"num_shared_expert": [2, 2]},
        {"moe_layer_num_skipped": 1},
        {"use_cla": True},
        {"use_qk_norm": False},
        {"norm_topk_prob": False},
        {"attention_head_dim": 16},
    ],
    ids=str,
)
def test_what_hunyuans_mixture_does_not_compute(change: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError, match="|".join(change)):
        sparse_metadata("HunYuanMoEV1ForCausalLM", **change)


SEES = {
    **{key: value for key, value in PLAIN.items() if key != "num_hidden_layers"},
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "rope_parameters": {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5, "rope_theta": 10000.0},
}


def glm4v(name: str = "Glm4vForConditionalGeneration", **changes: Any) -> tuple[dict[str, Any], dict[str, Rule]]:
    """Metadata and rules of a GLM that sees."""
    architecture = ARCHITECTURES[name]
    config = architecture.settings({**SEES, **changes})
    found = {entry.key.removeprefix(f"{architecture.name}."): entry.value for entry in architecture.metadata(config)}
    return found, {rule.target: rule for rule in architecture.rules(config)}


def test_glm_with_eyes() -> None:
    """Of a head of 16 rows the first 8 are rotated: as neighbors in transformers, as halves in llama.cpp."""
    found, rules = glm4v()
    assert (found["rope.dimension_count"], list(found["rope.dimension_sections"])) == (8, [1, 1, 2, 0])
    for name in ("attn_q.weight", "attn_k.bias"):
        arrange, values = rules[f"blk.0.{name}"].arrange, np.arange(32)
        assert arrange is not None
        turned = [0, 2, 4, 6, 1, 3, 5, 7, *range(8, 16)]
        assert arrange(values).tolist() == [*turned, *(16 + i for i in turned)]
    assert rules["blk.0.attn_v.weight"].arrange is None
    experts = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2}
    found, rules = glm4v("Glm4vMoeForConditionalGeneration", **experts)
    assert list(found["rope.dimension_sections"]) == [1, 1, 2, 0]
    assert rules["blk.0.attn_q.weight"].arrange is None  # transformers rotates halves, too
    for change in ({"head_dim": 32}, {"rope_parameters": {"partial_rotary_factor": 0.5}}):
        with pytest.raises(ArchitectureError, match=r"head_dim 32|mrope_section"):
            glm4v(**change)
    with pytest.raises(ArchitectureError, match="use_qk_norm"):
        glm4v("Glm4vMoeForConditionalGeneration", **experts, use_qk_norm=True)


@pytest.mark.parametrize(
    "change",
    [
        {"norm_topk_prob": True},
        {"clip_qkv": 8.0},
        {"num_key_value_heads": 4},
        {"attention_bias": True},
        {"tie_word_embeddings": True},
    ],
    ids=str,
)
def test_what_olmoe_does_not_compute(change: dict[str, Any]) -> None:
    assert sparse_metadata("OlmoeForCausalLM")["expert_used_count"] == 2
    with pytest.raises(ArchitectureError, match="|".join(change)):
        sparse_metadata("OlmoeForCausalLM", **change)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ArceeForCausalLM", {"attention_bias": True}),
        ("ArceeForCausalLM", {"mlp_bias": True}),
        ("ArceeForCausalLM", {"hidden_act": "silu"}),
        ("Starcoder2ForCausalLM", {"use_bias": False}),
        ("PhiForCausalLM", {"qk_layernorm": True}),
        ("PhiForCausalLM", {"rope_theta": 20000.0}),
        ("PhiForCausalLM", {"tie_word_embeddings": True}),
        ("SeedOssForCausalLM", {"attention_out_bias": True}),
        ("SeedOssForCausalLM", {"mlp_bias": True}),
        ("Ernie4_5ForCausalLM", {"use_bias": True}),
        ("HunYuanDenseV1ForCausalLM", {"attention_bias": True}),
        ("Exaone4ForCausalLM", {"head_dim": 16}),
        ("Exaone4ForCausalLM", {"sliding_window": 4096}),
        ("Exaone4ForCausalLM", {**WINDOWS, "sliding_window_pattern": 3}),
        ("Exaone4ForCausalLM", {"layer_types": ["sliding_attention"] * 6}),
        ("CohereForCausalLM", {"use_qk_norm": True}),
        ("CohereForCausalLM", {"tie_word_embeddings": False}),
        ("CohereForCausalLM", {"attention_bias": True}),
        ("CohereForCausalLM", {"logit_scale": None}),
        ("CohereForCausalLM", {"rope_scaling": YARN}),
        ("Cohere2ForCausalLM", {"layer_types": ["full_attention"] * 6}),
        ("Cohere2ForCausalLM", {"sliding_window_pattern": 2}),
        ("Cohere2ForCausalLM", {"rotary_pct": 0.5}),
        ("Cohere2ForCausalLM", {"sliding_window": None}),
        ("StableLmForCausalLM", {"qk_layernorm": True}),
        ("StableLmForCausalLM", {"rope_theta": 20000.0}),
        ("StableLmForCausalLM", {"tie_word_embeddings": True}),
        ("StableLmForCausalLM", {"partial_rotary_factor": 0.2}),
        ("InternLM3ForCausalLM", {"hidden_act": "gelu"}),
    ],
    ids=str,
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name: str, change: dict[str, Any]) -> None:
    metadata(name)
    with pytest.raises(ArchitectureError, match=r"rope|rotates|" + "|".join(change)):
        metadata(name, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"moe_layer_interval": 2},
        {"moe_layer_end_index": 0},
        {"moe_layer_start_index": 3},
        {"moe_k": 5},
        {"moe_norm_min": 0.9},
        {"moe_num_experts": None},
        {"use_bias": True},
    ],
    ids=str,
)
def test_ernies_layers_and_experts(change: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError, match="|".join(change)):
        sparse_metadata("Ernie4_5_MoeForCausalLM", **change)
