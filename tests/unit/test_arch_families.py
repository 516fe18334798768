"""The dense families beside Llama and Qwen2: what each adds to metadata and tensors, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from quantkit.arch.base import Architecture
from quantkit.arch.families import ARCHITECTURES
from quantkit.arch.rope import rope
from quantkit.errors import ArchitectureError
from tests.support.bits import bits

PLAIN: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
}
# What a family's config.json says beyond that.
OWN: Mapping[str, Mapping[str, Any]] = {
    "MistralForCausalLM": {},
    "Mistral3ForConditionalGeneration": {"model_type": "mistral"},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 16},
    "GemmaForCausalLM": {"head_dim": 16},
    "Gemma2ForCausalLM": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "Gemma3ForCausalLM": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "Phi3ForCausalLM": {"original_max_position_embeddings": 8192},
    "GraniteForCausalLM": {},
    "SmolLM3ForCausalLM": {},
    "Olmo2ForCausalLM": {},
    "Olmo3ForCausalLM": {},
    "ArceeForCausalLM": {},
    "Starcoder2ForCausalLM": {},
    "PhiForCausalLM": {},
    "Ministral3ForCausalLM": {},
    "SeedOssForCausalLM": {"head_dim": 16, "attention_bias": False},
    "Ernie4_5ForCausalLM": {"head_dim": 16, "tie_word_embeddings": False},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 16},
    "Exaone4ForCausalLM": {"sliding_window": None},
    "CohereForCausalLM": {},
    "Cohere2ForCausalLM": {},
    "StableLmForCausalLM": {},
    "NemotronForCausalLM": {},
    "InternLM3ForCausalLM": {"head_dim": 8},
    "GlmForCausalLM": {"head_dim": 8, "attention_bias": False},
    "Glm4ForCausalLM": {"head_dim": 16, "attention_bias": False},
}
# Whose norms have biases.
LAYER_NORMS = ("StableLmForCausalLM", "NemotronForCausalLM", "Starcoder2ForCausalLM", "PhiForCausalLM")
LONG = {"rope_type": "longrope", "long_factor": [2.0, 4.0, 8.0, 16.0], "short_factor": [1.0, 1.0, 2.0, 2.0]}


def family(name: str, **changes: Any) -> tuple[Architecture, Mapping[str, Any]]:
    """An architecture and its whole config."""
    architecture = ARCHITECTURES[name]
    return architecture, architecture.settings({**PLAIN, **OWN[name], **changes})


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    """By key without the architecture's name, the values."""
    architecture, config = family(name, **changes)
    return {entry.key.removeprefix(f"{architecture.name}."): entry.value for entry in architecture.metadata(config)}


def shapes(name: str, **changes: Any) -> dict[str, tuple[int, ...]]:
    """By target the shapes, of the first layer and of what is in no layer."""
    architecture, config = family(name, **changes)
    return {
        rule.target.removeprefix("blk.0."): rule.shape
        for rule in architecture.rules(config)
        if not rule.target.startswith("blk.") or rule.target.startswith("blk.0.")
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MistralForCausalLM", {"attention.key_length": 8, "vocab_size": 100, "rope.dimension_count": 8}),
        ("Qwen3ForCausalLM", {"attention.key_length": 16, "attention.value_length": 16, "rope.freq_base": 10000.0}),
        ("GemmaForCausalLM", {"attention.key_length": 16, "rope.freq_base": None, "attention.sliding_window": None}),
        (
            "Gemma2ForCausalLM",
            {
                "attention.key_length": 16,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
                "attention.sliding_window": 4096,
            },
        ),
        ("Gemma3ForCausalLM", {"rope.freq_base": 1e6, "rope.freq_base_swa": 1e4, "attention.sliding_window": 4096}),
        ("Phi3ForCausalLM", {"rope.scaling.original_context_length": 8192, "attention.sliding_window": 0}),
        (
            "GraniteForCausalLM",
            {"attention.scale": 1.0, "embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0},
        ),
        ("SmolLM3ForCausalLM", {"rope.freq_base": 2e6, "attention.head_count_kv": 2}),
        ("Olmo2ForCausalLM", {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0}),
        ("ArceeForCausalLM", {"vocab_size": 100, "rope.dimension_count": 8, "attention.key_length": 8}),
        ("Starcoder2ForCausalLM", {"attention.layer_norm_epsilon": pytest.approx(1e-5), "attention.head_count_kv": 2}),
        ("PhiForCausalLM", {"rope.dimension_count": 4, "rope.freq_base": None}),
        ("SeedOssForCausalLM", {"attention.key_length": 16, "rope.freq_base": 10000.0}),
        ("Ernie4_5ForCausalLM", {"attention.key_length": 16, "rope.freq_base": 500000.0}),
        ("HunYuanDenseV1ForCausalLM", {"attention.value_length": 16, "rope.freq_base": 10000.0}),
        ("Exaone4ForCausalLM", {"vocab_size": 100, "attention.sliding_window": None}),
        ("CohereForCausalLM", {"logit_scale": 0.0625, "attention.layer_norm_epsilon": pytest.approx(1e-5)}),
        ("Cohere2ForCausalLM", {"attention.sliding_window": 4096, "rope.dimension_count": 8}),
        ("StableLmForCausalLM", {"use_parallel_residual": False, "rope.dimension_count": 2, "rope.freq_base": None}),
        (
            "NemotronForCausalLM",
            {
                "attention.layer_norm_epsilon": pytest.approx(1e-5),
                "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
                "rope.dimension_count": 4,
                "rope.scaling.type": "none",
                "attention.key_length": 8,
            },
        ),
        ("InternLM3ForCausalLM", {"attention.key_length": 8, "vocab_size": 100}),
        # llama.cpp's converter writes the hidden size, 1e-5 and 10000 for the first of them.
        ("GlmForCausalLM", {"attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": 4}),
        ("Glm4ForCausalLM", {"attention.key_length": 16, "rope.dimension_count": 8, "rope.freq_base": 10000.0}),
    ],
)
def test_metadata_of_a_family(name: str, expected: dict[str, Any]) -> None:
    found = metadata(name)
    assert {key: found.get(key) for key in expected} == expected
    assert found["context_length"] == 8192


def test_metadata_that_must_not_be_there() -> None:
    assert "rope.freq_base" not in metadata("Gemma2ForCausalLM")
    assert "final_logit_softcapping" not in metadata("Gemma3ForCausalLM")
    assert metadata("Gemma3ForCausalLM", final_logit_softcapping=20)["final_logit_softcapping"] == 20.0
    assert not any(key.startswith("attention.key_length") for key in metadata("GraniteForCausalLM", head_dim=8))
    assert "rope.scaling.attn_factor" not in metadata("Phi3ForCausalLM")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen3ForCausalLM", {"attn_q_norm.weight": (16,), "attn_k_norm.weight": (16,), "attn_q.weight": (128, 64)}),
        (
            "GemmaForCausalLM",
            {"attn_q.weight": (128, 64), "ffn_norm.weight": (64,), "post_attention_norm.weight": None},
        ),
        (
            "Gemma2ForCausalLM",
            {
                "attn_norm.weight": (64,),
                "post_attention_norm.weight": (64,),
                "ffn_norm.weight": (64,),
                "post_ffw_norm.weight": (64,),
            },
        ),
        ("Gemma3ForCausalLM", {"attn_q_norm.weight": (16,), "post_ffw_norm.weight": (64,), "output.weight": (100, 64)}),
        ("Phi3ForCausalLM", {"attn_qkv.weight": (96, 64), "ffn_up.weight": (192, 64), "ffn_down.weight": (64, 96)}),
        ("Olmo2ForCausalLM", {"attn_q_norm.weight": (64,), "attn_k_norm.weight": (16,), "post_ffw_norm.weight": (64,)}),
        ("SeedOssForCausalLM", {"post_attention_norm.weight": (64,), "attn_q.weight": (128, 64)}),
        ("HunYuanDenseV1ForCausalLM", {"attn_q_norm.weight": (16,), "ffn_norm.weight": (64,)}),
        ("Exaone4ForCausalLM", {"post_attention_norm.weight": (64,), "post_ffw_norm.weight": (64,)}),
        ("StableLmForCausalLM", {"attn_norm.bias": (64,), "ffn_norm.bias": (64,), "output_norm.bias": (64,)}),
        ("NemotronForCausalLM", {"ffn_norm.bias": (64,), "ffn_gate.weight": None, "output_norm.bias": (64,)}),
        ("GlmForCausalLM", {"ffn_up.weight": (192, 64), "ffn_norm.weight": (64,), "attn_q.weight": (64, 64)}),
        (
            "Glm4ForCausalLM",
            {"ffn_norm.weight": (64,), "post_attention_norm.weight": (64,), "post_ffw_norm.weight": (64,)},
        ),
    ],
)
def test_tensors_of_a_family(name: str, expected: dict[str, tuple[int, ...]]) -> None:
    found = shapes(name)
    assert {target: found.get(target) for target in expected} == expected


def test_tensors_that_must_not_be_there() -> None:
    assert "output.weight" not in shapes("GemmaForCausalLM") | shapes("Gemma2ForCausalLM")
    assert not {"attn_norm.weight", "ffn_norm.weight"} & shapes("Olmo2ForCausalLM").keys()
    assert "output.weight" not in shapes("CohereForCausalLM")
    assert not {"ffn_gate.weight", "attn_q.weight"} & shapes("Phi3ForCausalLM").keys()
    biases = [target for name in OWN if name not in LAYER_NORMS for target in shapes(name) if target.endswith(".bias")]
    assert biases == ["attn_q.bias", "attn_k.bias", "attn_v.bias"]  # Qwen2's


def test_norms_that_are_one_more() -> None:
    for name in ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "NemotronForCausalLM"):
        architecture, config = family(name)
        arranged = {rule.target: rule.arrange for rule in architecture.rules(config)}
        weights = np.array([0.5, -1.0], dtype=np.float16)
        for target, arrange in arranged.items():
            if target.endswith("norm.weight"):
                assert arrange is not None
                assert bits(arrange(weights)) == bits(np.array([1.5, 0.0], dtype=np.float16))
            else:
                assert arrange is None
        assert weights.tolist() == [0.5, -1.0]  # not changed in place


def test_only_families_after_llama_change_the_order_of_heads() -> None:
    arranged = {name for name in OWN if family(name)[0].rules(family(name)[1])[2].unit > 1}
    assert arranged == {
        "MistralForCausalLM",
        "Mistral3ForConditionalGeneration",
        "GraniteForCausalLM",
        "SmolLM3ForCausalLM",
        "Ministral3ForCausalLM",
        "InternLM3ForCausalLM",
        "ArceeForCausalLM",
    }


def test_glm_as_its_config_says() -> None:
    released = {"rope_theta": 5e6, "rms_norm_eps": 1.5625e-7, "max_position_embeddings": 131072}
    found = metadata("GlmForCausalLM", **released, partial_rotary_factor=0.25)
    assert found["rope.freq_base"] == 5e6
    assert found["attention.layer_norm_rms_epsilon"] == pytest.approx(1.5625e-7)
    assert (found["context_length"], found["rope.dimension_count"]) == (131072, 2)
    assert "attn_q.bias" in shapes("GlmForCausalLM", attention_bias=True)
    assert "attn_q.bias" in shapes("Glm4ForCausalLM", attention_bias=True)


def test_longrope_of_phi3() -> None:
    scaling = {"rope_scaling": LONG, "max_position_embeddings": 65536, "original_max_position_embeddings": 4096}
    found = metadata("Phi3ForCausalLM", **scaling)
    assert found["rope.scaling.attn_factor"] == pytest.approx(math.sqrt(1 + math.log(16) / math.log(4096)))
    assert found["rope.scaling.original_context_length"] == 4096
    assert "rope.scaling.type" not in found  # llama.cpp's graph for Phi-3 looks for the factors alone
    architecture, config = family("Phi3ForCausalLM", **scaling)
    tensors = {made.target: made.values for made in architecture.generated(config)}
    assert list(tensors) == ["rope_factors_long.weight", "rope_factors_short.weight"]
    assert bits(tensors["rope_factors_long.weight"]) == bits(np.float32([2, 4, 8, 16]))
    for old in ("su", "yarn"):
        assert metadata("Phi3ForCausalLM", **{**scaling, "rope_scaling": {**LONG, "rope_type": old}}) == found


def test_a_part_of_phi3s_heads_is_rotated() -> None:
    found = metadata("Phi3ForCausalLM", partial_rotary_factor=0.5)
    assert found["rope.dimension_count"] == 4


def test_gemma3_has_two_rotary_bases() -> None:
    expected = {"rope.freq_base": 5e5, "rope.freq_base_swa": 2e4, "rope.scaling.factor": 8.0}
    linear = {"rope_type": "linear", "factor": 8.0}
    flat = metadata("Gemma3ForCausalLM", rope_theta=5e5, rope_local_base_freq=2e4, rope_scaling=linear)
    nested = metadata(
        "Gemma3ForCausalLM",
        rope_parameters={
            "full_attention": {**linear, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    )
    assert flat == nested
    assert {key: flat[key] for key in expected} == expected


def test_the_large_gemmas_scale_by_the_hidden_size() -> None:
    large = {"num_hidden_layers": 46, "num_attention_heads": 4, "head_dim": 32, "query_pre_attn_scalar": 16}
    assert metadata("Gemma2ForCausalLM", **large)["block_count"] == 46
    with pytest.raises(ArchitectureError, match="query_pre_attn_scalar 16 is not supported"):
        metadata("Gemma2ForCausalLM", **{**large, "num_hidden_layers": 42})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, {"hidden_act": "relu"}) for name in OWN if name[:6] not in ("Gemma2", "Gemma3")),
        ("GemmaForCausalLM", {"hidden_activation": "gelu"}),
        ("GemmaForCausalLM", {"attention_bias": True}),
        ("GemmaForCausalLM", {"tie_word_embeddings": False}),
        ("GemmaForCausalLM", {"rope_theta": 20000.0}),
        ("GemmaForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("Gemma2ForCausalLM", {"hidden_activation": "gelu"}),
        ("Gemma3ForCausalLM", {"hidden_activation": "gelu"}),
        *((name, {"partial_rotary_factor": 0.5}) for name in ("MistralForCausalLM", "Olmo2ForCausalLM")),
        *((name, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}) for name in OWN if name[:6] != "Intern"),
        *((name, {"rope_scaling": {"factor": 8.0}}) for name in OWN),
        ("Gemma3ForCausalLM", {"rope_parameters": {"sliding_attention": {"factor": 8.0}}}),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONG, "rope_type": None}}),
        ("Mistral3ForConditionalGeneration", {"model_type": "ministral3"}),
        ("Qwen2ForCausalLM", {"head_dim": 16}),
        ("Qwen3ForCausalLM", {"attention_bias": True}),
        ("Qwen3ForCausalLM", {"use_sliding_window": True}),
        ("Qwen3ForCausalLM", {"rope_scaling": {**LONG, "original_max_position_embeddings": 64}}),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 8}),
        ("Gemma2ForCausalLM", {"attention_bias": True}),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": None}),
        ("Gemma2ForCausalLM", {"final_logit_softcapping": None}),
        ("Gemma2ForCausalLM", {"rope_theta": 20000.0}),
        ("Gemma2ForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("Gemma2ForCausalLM", {"sliding_window": None}),
        ("Gemma2ForCausalLM", {"tie_word_embeddings": False}),
        ("Gemma2ForCausalLM", {"layer_types": ["full_attention"] * 6}),
        ("Gemma3ForCausalLM", {"sliding_window_pattern": 4}),
        *((name, {"is_causal": False}) for name in OWN),
        *((name, {"use_bidirectional_attention": True}) for name in OWN),
        ("Gemma3ForCausalLM", {"attn_logit_softcapping": 50.0}),
        ("Gemma3ForCausalLM", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
        ("Phi3ForCausalLM", {"head_dim": 16}),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 0.4}),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONG, "attention_factor": 2.0}}),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONG, "long_factor": [1.0, 2.0]}}),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONG, "short_factor": [1.0, 2.0, 3.0, "x"]}}),
        ("GraniteForCausalLM", {"logits_scaling": 0}),
        ("GraniteForCausalLM", {"head_dim": 16}),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 0, 1, 0, 1, 0]}),
        ("SmolLM3ForCausalLM", {"mlp_bias": True}),
        ("Olmo2ForCausalLM", {"tie_word_embeddings": True}),
        ("Olmo2ForCausalLM", {"head_dim": 16}),
        ("GlmForCausalLM", {"head_dim": 16}),
        ("GlmForCausalLM", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
        ("NemotronForCausalLM", {"head_dim": 16}),
        ("NemotronForCausalLM", {"tie_word_embeddings": True}),
        ("NemotronForCausalLM", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
        *((f"{name}ForCausalLM", {"partial_rotary_factor": 2.0}) for name in ("Glm", "Glm4", "Nemotron")),
    ],
    ids=str,
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name: str, change: dict[str, Any]) -> None:
    def ask(**changes: Any) -> None:
        architecture, config = family(name, **changes)
        architecture.metadata(config), architecture.generated(config)

    ask()
    with pytest.raises(ArchitectureError, match=r"rope|rotates|long_factor|short_factor|" + "|".join(change)):
        ask(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_factor": 1.0},
        {"attn_factor": 2.0},
        {"beta_fast": 24},
        {"beta_slow": 2},
        {"truncate": False},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
    ],
    ids=str,
)
def test_yarn_with_settings_that_llama_cpp_does_not_read(change: dict[str, Any]) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    assert metadata("MistralForCausalLM", rope_scaling=yarn)["rope.scaling.type"] == "yarn"
    with pytest.raises(ArchitectureError, match="|".join(change)):
        metadata("MistralForCausalLM", rope_scaling={**yarn, **change})


def test_rotary_settings_in_two_places() -> None:
    assert rope({"rope_scaling": {"rope_theta": 1.0}, "rope_theta": 2.0})["rope_theta"] == 1.0
    assert rope({"rope_scaling": {"rope_theta": 1.0}, "rope_parameters": {"rope_theta": 2.0}})["rope_theta"] == 1.0
    trained = {"original_max_position_embeddings": 2}
    assert rope({"rope_scaling": {"rope_type": "yarn"}, **trained})["original_max_position_embeddings"] == 2
    with pytest.raises(ArchitectureError, match="original_max_position_embeddings is 1 in rope_scaling but 2 outside"):
        rope({"rope_scaling": {"original_max_position_embeddings": 1}, **trained})


def test_a_window_shorter_than_the_context_is_noted() -> None:
    for name in ("MistralForCausalLM", "Phi3ForCausalLM", "Mistral3ForConditionalGeneration"):
        architecture, config = family(name, sliding_window=4096)
        (note,) = architecture.notes(config)
        assert "4096 of the 8192 tokens" in note
        for whole in (None, 8192):
            assert architecture.notes(family(name, sliding_window=whole)[1]) == []


def test_mistral_without_the_setting_has_a_window() -> None:
    architecture, config = family("MistralForCausalLM")
    assert architecture.notes(config)


def test_the_settings_of_a_model_that_also_sees() -> None:
    given = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [1, 106],
        "text_config": {"architectures": None, "hidden_size": 2560, "sliding_window": 1024, "eos_token_id": 1},
    }
    found = ARCHITECTURES["Gemma3ForConditionalGeneration"].settings(given)
    assert found["architectures"] == ["Gemma3ForConditionalGeneration"]
    assert found["eos_token_id"] == [1, 106]
    assert (found["hidden_size"], found["sliding_window"], found["head_dim"]) == (2560, 1024, 256)
