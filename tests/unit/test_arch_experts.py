"""Mixtures of experts, and the first Qwen: what they add to metadata and tensors, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from quantkit.arch.base import Rule
from quantkit.arch.families import ARCHITECTURES
from quantkit.errors import ArchitectureError
from quantkit.ggml.types import GGMLType
from quantkit.model.planned import base_type

PLAIN: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
}
SPARSE: Mapping[str, Any] = {**PLAIN, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "num_experts_per_tok": 2}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "MixtralForCausalLM": {**SPARSE, "num_local_experts": 3},
    "Qwen2MoeForCausalLM": {
        **SPARSE,
        "num_experts": 3,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
    },
    "Qwen3MoeForCausalLM": {
        **SPARSE,
        "num_experts": 3,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "head_dim": 16,
    },
    "Ernie4_5_MoeForCausalLM": {
        **SPARSE,
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 32,
    },
    "Glm4MoeForCausalLM": {
        **SPARSE,
        "n_routed_experts": 4,
        "n_shared_experts": 2,
        "moe_intermediate_size": 32,
        "attention_bias": False,
    },
    "HunYuanMoEV1ForCausalLM": {
        **{key: value for key, value in SPARSE.items() if key != "num_experts_per_tok"},
        "num_experts": 3,
        "moe_topk": [2, 2],
        "moe_intermediate_size": [96, 96],
        "num_shared_expert": [1, 1],
    },
    "OlmoeForCausalLM": {**PLAIN, "rms_norm_eps": 1e-5, "num_experts_per_tok": 2, "num_experts": 3},
    "GptOssForCausalLM": {**SPARSE, "num_local_experts": 3, "head_dim": 16},
    "QWenLMHeadModel": {**PLAIN, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "kv_channels": 8},
}


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    """By key without the architecture's name, the values."""
    architecture = ARCHITECTURES[name]
    entries = architecture.metadata(architecture.settings({**CONFIGS[name], **changes}))
    return {entry.key.removeprefix(f"{architecture.name}."): entry.value for entry in entries}


def rules(name: str, **changes: Any) -> dict[str, Rule]:
    """The rules of the second layer and of what is in no layer, by target."""
    architecture = ARCHITECTURES[name]
    found = architecture.rules(architecture.settings({**CONFIGS[name], **changes}))
    assert len({rule.target for rule in found}) == len(found)
    return {rule.target.removeprefix("blk.1."): rule for rule in found if not rule.target.startswith("blk.0.")}


@pytest.mark.parametrize(
    ("name", "module", "names", "inner"),
    [
        ("MixtralForCausalLM", "block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}, 96),
        ("Qwen2MoeForCausalLM", "mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}, 32),
        ("Qwen3MoeForCausalLM", "mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}, 32),
        ("OlmoeForCausalLM", "mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}, 96),
    ],
)
def test_experts_are_stacked(name: str, module: str, names: dict[str, str], inner: int) -> None:
    found = rules(name)
    for kind, source in names.items():
        rule = found[f"ffn_{kind}_exps.weight"]
        shape = (64, inner) if kind == "down" else (inner, 64)
        assert rule.sources == tuple(f"model.layers.1.{module}.experts.{i}.{source}.weight" for i in range(3))
        assert (rule.shape, rule.shape_of_sources) == ((3, *shape), shape)
    router = found["ffn_gate_inp.weight"]
    assert (router.source, router.shape) == (f"model.layers.1.{module}.gate.weight", (3, 64))
    assert "ffn_gate.weight" not in found
    assert {key: metadata(name)[key] for key in ("expert_count", "expert_used_count")} == {
        "expert_count": 3,
        "expert_used_count": 2,
    }


def test_the_expert_all_tokens_share() -> None:
    found = rules("Qwen2MoeForCausalLM")
    assert {target: rule.shape for target, rule in found.items() if "shexp" in target} == {
        "ffn_gate_inp_shexp.weight": (1, 64),
        "ffn_gate_shexp.weight": (48, 64),
        "ffn_up_shexp.weight": (48, 64),
        "ffn_down_shexp.weight": (64, 48),
    }
    assert "attn_q.bias" in found
    assert "attn_q.bias" not in rules("Qwen2MoeForCausalLM", qkv_bias=False)
    assert metadata("Qwen2MoeForCausalLM")["expert_shared_feed_forward_length"] == 48
    assert metadata("Qwen2MoeForCausalLM")["expert_feed_forward_length"] == 32


def test_routers_that_add_a_bias_for_the_choice() -> None:
    found = rules("Glm4MoeForCausalLM")
    bias = found["exp_probs_b.bias"]
    assert (bias.source, bias.shape) == ("model.layers.1.mlp.gate.e_score_correction_bias", (4,))
    assert {target: rule.shape for target, rule in found.items() if "shexp" in target and "blk" not in target} == {
        "ffn_gate_shexp.weight": (64, 64),
        "ffn_up_shexp.weight": (64, 64),
        "ffn_down_shexp.weight": (64, 64),
    }
    values = metadata("Glm4MoeForCausalLM", n_group=2, norm_topk_prob=False, routed_scaling_factor=2.5)
    assert {key: value for key, value in values.items() if key.startswith("expert")} == {
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_group_count": 2,
        "expert_group_used_count": 1,
        "expert_feed_forward_length": 32,
        "expert_shared_count": 2,
        "expert_gating_func": 2,
        "expert_weights_scale": 2.5,
        "expert_weights_norm": False,
    }


def test_dense_layers_before_those_with_experts() -> None:
    for count in (0, 1, 2):
        architecture = ARCHITECTURES["Glm4MoeForCausalLM"]
        config = architecture.settings({**CONFIGS["Glm4MoeForCausalLM"], "first_k_dense_replace": count})
        targets = {rule.target for rule in architecture.rules(config)}
        assert [f"blk.{i}.ffn_gate.weight" in targets for i in range(2)] == [i < count for i in range(2)]
        assert [f"blk.{i}.ffn_gate_exps.weight" in targets for i in range(2)] == [i >= count for i in range(2)]


def test_the_layer_that_predicts_one_more_token() -> None:
    """It counts as the last layer, and a checkpoint may lack it."""
    assert [metadata("Glm4MoeForCausalLM")[key] for key in ("block_count", "nextn_predict_layers")] == [3, 1]
    found = [rule for target, rule in rules("Glm4MoeForCausalLM").items() if target.startswith("blk.2.")]
    assert {"blk.2.nextn.eh_proj.weight", "blk.2.attn_q.weight", "blk.2.ffn_up_exps.weight"} <= {
        rule.target for rule in found
    }
    assert all(rule.optional for rule in found)
    without = {"num_nextn_predict_layers": 0}
    assert metadata("Glm4MoeForCausalLM", **without)["block_count"] == 2
    assert not any(target.startswith("blk.2.") for target in rules("Glm4MoeForCausalLM", **without))


def test_mixtral_is_a_llama() -> None:
    found, rule = metadata("MixtralForCausalLM"), rules("MixtralForCausalLM")["attn_q.weight"]
    assert ARCHITECTURES["MixtralForCausalLM"].name == "llama"
    assert (rule.arrange is not None, rule.unit) == (True, 8)
    assert (found["rope.dimension_count"], found["vocab_size"], found["feed_forward_length"]) == (8, 100, 96)
    assert "attention.key_length" not in found
    assert metadata("MixtralForCausalLM", head_dim=16)["attention.key_length"] == 16
    # transformers' default for it, not Llama's
    assert found["rope.freq_base"] == 1e6


def test_qwen3_moe_normalizes_heads() -> None:
    found = rules("Qwen3MoeForCausalLM")
    assert (found["attn_q_norm.weight"].shape, found["attn_k_norm.weight"].shape) == ((16,), (16,))
    assert (found["attn_q.weight"].shape, found["attn_output.weight"].shape) == ((128, 64), (64, 128))


@pytest.mark.parametrize("name", ["ffn_gate_inp", "ffn_gate_inp_shexp"])
def test_routers_stay_float32(name: str) -> None:
    assert base_type(f"blk.0.{name}.weight", (3, 64), GGMLType.F16) is GGMLType.F32
    assert base_type("blk.0.ffn_gate_exps.weight", (3, 32, 64), GGMLType.F16) is GGMLType.F16


def test_gpt_oss() -> None:
    found = rules("GptOssForCausalLM")
    source = "model.layers.1.mlp.experts"
    for kind, first in (("gate", 0), ("up", 1)):
        rule, bias = found[f"ffn_{kind}_exps.weight"], found[f"ffn_{kind}_exps.bias"]
        assert (rule.source, rule.shape, rule.transposed) == (f"{source}.gate_up_proj", (3, 96, 64), True)
        assert rule.shape_of_sources == (3, 64, 192)
        assert rule.row_order == (range(64), range(64, 128), range(128, 192))
        assert rule.column_order == bias.column_order == (range(first, 192, 2),)
        assert (bias.shape, bias.shape_of_sources) == ((3, 96), (3, 192))
    down = found["ffn_down_exps.weight"]
    assert (down.shape, down.shape_of_sources, down.column_order) == ((3, 64, 96), (3, 96, 64), ())
    assert found["attn_sinks.weight"].shape == (8,)
    assert {name: found[name].shape for name in ("ffn_gate_inp.bias", "attn_output.bias", "attn_v.bias")} == {
        "ffn_gate_inp.bias": (3,),
        "attn_output.bias": (64,),
        "attn_v.bias": (32,),
    }
    values = metadata("GptOssForCausalLM")
    assert (values["rope.scaling.type"], values["rope.freq_base"]) == ("yarn", 150000.0)
    assert (values["attention.sliding_window"], values["expert_feed_forward_length"]) == (128, 96)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 1),  # its class says so
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}}, 0),
        ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 0),
    ],
)
def test_gpt_oss_says_that_llama_cpp_rounds_where_yarn_begins(settings: dict[str, Any], count: int) -> None:
    architecture = ARCHITECTURES["GptOssForCausalLM"]
    notes = architecture.notes(architecture.settings({**CONFIGS["GptOssForCausalLM"], **settings}))
    assert ["truncate" in note for note in notes] == [True] * count


def test_qwen() -> None:
    assert metadata("QWenLMHeadModel") == {
        "block_count": 2,
        "context_length": 8192,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 8,
        "rope.freq_base": 10000.0,
        "attention.layer_norm_epsilon": 1e-6,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    assert {target: (rule.source, rule.shape) for target, rule in rules("QWenLMHeadModel").items()} == {
        "token_embd.weight": ("transformer.wte.weight", (100, 64)),
        "attn_norm.weight": ("transformer.h.1.ln_1.weight", (64,)),
        "attn_qkv.weight": ("transformer.h.1.attn.c_attn.weight", (192, 64)),
        "attn_qkv.bias": ("transformer.h.1.attn.c_attn.bias", (192,)),
        "attn_output.weight": ("transformer.h.1.attn.c_proj.weight", (64, 64)),
        "ffn_norm.weight": ("transformer.h.1.ln_2.weight", (64,)),
        "ffn_gate.weight": ("transformer.h.1.mlp.w2.weight", (48, 64)),
        "ffn_up.weight": ("transformer.h.1.mlp.w1.weight", (48, 64)),
        "ffn_down.weight": ("transformer.h.1.mlp.c_proj.weight", (64, 48)),
        "output_norm.weight": ("transformer.ln_f.weight", (64,)),
        "output.weight": ("lm_head.weight", (100, 64)),
    }
    assert ARCHITECTURES["QWenLMHeadModel"].tokenizers == ("tiktoken",)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seq_length": 2048, "use_dynamic_ntk": True}, ["2048"]),
        ({"seq_length": 2048, "use_logn_attn": True}, ["2048"]),
        ({"seq_length": 2048}, []),
        ({"seq_length": 8192, "use_dynamic_ntk": True}, []),
        ({"use_dynamic_ntk": True}, []),
    ],
)
def test_qwen_says_where_its_context_is_stretched(settings: dict[str, Any], told: list[str]) -> None:
    notes = ARCHITECTURES["QWenLMHeadModel"].notes({**CONFIGS["QWenLMHeadModel"], **settings})
    assert [number for note in notes for number in told if number in note] == told
    assert len(notes) == len(told)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("MixtralForCausalLM", {"num_local_experts": None}, "num_local_experts is None"),
        ("MixtralForCausalLM", {"num_local_experts": 1025}, "num_local_experts is 1025"),
        ("MixtralForCausalLM", {"num_experts_per_tok": 4}, "num_experts_per_tok is 4, but there are only 3 experts"),
        ("MixtralForCausalLM", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ("Qwen2MoeForCausalLM", {"norm_topk_prob": True}, "norm_topk_prob True is not supported"),
        ("Qwen2MoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step 2 is not supported"),
        ("Qwen2MoeForCausalLM", {"mlp_only_layers": [0]}, r"mlp_only_layers \[0\] is not supported"),
        ("Qwen2MoeForCausalLM", {"tie_word_embeddings": True}, "tie_word_embeddings True is not supported"),
        ("Qwen2MoeForCausalLM", {"shared_expert_intermediate_size": None}, "shared_expert_intermediate_size is None"),
        ("Qwen2MoeForCausalLM", {"use_sliding_window": True}, "use_sliding_window True is not supported"),
        ("Qwen2MoeForCausalLM", {"head_dim": 16}, "head_dim 16 is not supported"),
        ("Qwen3MoeForCausalLM", {"norm_topk_prob": None}, "norm_topk_prob"),
        ("Qwen3MoeForCausalLM", {"norm_topk_prob": False}, "norm_topk_prob False is not supported"),
        ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step 2 is not supported"),
        ("Qwen3MoeForCausalLM", {"attention_bias": True}, "attention_bias True is not supported"),
        ("Qwen3MoeForCausalLM", {"moe_intermediate_size": None}, "moe_intermediate_size is None"),
        ("Glm4MoeForCausalLM", {"n_group": 3}, "1 of 3 groups"),
        ("Glm4MoeForCausalLM", {"topk_group": 2}, "2 of 1 groups"),
        ("Glm4MoeForCausalLM", {"n_group": 4, "topk_group": 2}, "2 of 4 groups"),
        ("Glm4MoeForCausalLM", {"first_k_dense_replace": 3}, "first_k_dense_replace is 3"),
        ("Glm4MoeForCausalLM", {"n_shared_experts": None}, "n_shared_experts is None"),
        ("Glm4MoeForCausalLM", {"routed_scaling_factor": 0}, "routed_scaling_factor is 0"),
        ("Glm4MoeForCausalLM", {"num_nextn_predict_layers": 2}, "num_nextn_predict_layers 2 is not supported"),
        ("Glm4MoeForCausalLM", {"tie_word_embeddings": True}, "tie_word_embeddings True is not supported"),
        ("GptOssForCausalLM", {"attention_bias": False}, "attention_bias False is not supported"),
        ("GptOssForCausalLM", {"tie_word_embeddings": True}, "tie_word_embeddings True is not supported"),
        ("GptOssForCausalLM", {"swiglu_limit": 6.0}, "swiglu_limit 6.0 is not supported"),
        ("GptOssForCausalLM", {"swiglu_alpha": 1.0}, "swiglu_alpha 1.0 is not supported"),
        ("GptOssForCausalLM", {"sliding_window": None}, "sliding_window is None"),
        ("GptOssForCausalLM", {"layer_types": ["full_attention"] * 2}, "layer_types .* is not supported"),
        ("GptOssForCausalLM", {"num_local_experts": 1}, "num_experts_per_tok is 2, but there are only 1 experts"),
        (
            "GptOssForCausalLM",
            {"rope_scaling": {"rope_type": "yarn", "factor": 8, "beta_fast": 16}},
            "beta_fast 16 is not supported",
        ),
        ("QWenLMHeadModel", {"no_bias": False}, "no_bias False is not supported"),
        ("QWenLMHeadModel", {"rotary_pct": 0.5}, "rotary_pct 0.5 is not supported"),
        ("QWenLMHeadModel", {"scale_attn_weights": False}, "scale_attn_weights False is not supported"),
        ("QWenLMHeadModel", {"tie_word_embeddings": True}, "tie_word_embeddings True is not supported"),
        ("QWenLMHeadModel", {"layer_norm_epsilon": None}, "layer_norm_epsilon is None"),
        ("QWenLMHeadModel", {"rotary_emb_base": 0}, "rotary_emb_base is 0"),
        ("QWenLMHeadModel", {"intermediate_size": 97}, "intermediate_size is 97; expected an even number"),
        ("QWenLMHeadModel", {"kv_channels": 16}, "kv_channels"),
        ("QWenLMHeadModel", {"num_attention_heads": 7, "kv_channels": None}, "7 attention heads"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_settings_that_would_be_lost(name: str, change: dict[str, Any], message: str) -> None:
    architecture = ARCHITECTURES[name]
    config = architecture.settings({**CONFIGS[name], **change})
    with pytest.raises(ArchitectureError, match=message):
        (architecture.metadata(config), architecture.rules(config))
