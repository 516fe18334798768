"""DeepSeek V2 and V3, GLM-4.7-Flash, MiniCPM, InternLM 2, ChatGLM, Baichuan: tensors, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from quantkit.arch.base import Architecture, Rule
from quantkit.arch.families import ARCHITECTURES
from quantkit.errors import ArchitectureError

_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
}
_LATENT: Mapping[str, Any] = {
    **_SIZES,
    "kv_lora_rank": 24,
    "q_lora_rank": 40,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_PLAIN: Mapping[str, Any] = {**_SIZES, "num_key_value_heads": 2}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "DeepseekV2ForCausalLM": _LATENT,
    "DeepseekV3ForCausalLM": {**_LATENT, "n_group": 2, "topk_group": 1},
    "Glm4MoeLiteForCausalLM": {key: value for key, value in _LATENT.items() if key != "first_k_dense_replace"},
    "MiniCPM3ForCausalLM": {key: value for key, value in _LATENT.items() if key != "v_head_dim"},
    "MiniCPMForCausalLM": {**_PLAIN, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256},
    "InternLM2ForCausalLM": _PLAIN,
    "BaichuanForCausalLM": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 32,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "model_max_length": 4096,
    },
    "ChatGLMModel": {
        "hidden_size": 64,
        "ffn_hidden_size": 96,
        "num_layers": 2,
        "num_attention_heads": 4,
        "multi_query_group_num": 2,
        "padded_vocab_size": 100,
        "seq_length": 8192,
        "kv_channels": 16,
        "rope_ratio": 500,
    },
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
LONG = {"rope_type": "longrope", "long_factor": [1.0] * 8, "short_factor": [1.0] * 8}


def family(name: str, **changes: Any) -> tuple[Architecture, Mapping[str, Any]]:
    architecture = ARCHITECTURES[name]
    return architecture, architecture.settings({**CONFIGS[name], **changes})


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    architecture, config = family(name, **changes)
    return {entry.key.removeprefix(f"{architecture.name}."): entry.value for entry in architecture.metadata(config)}


def rules(name: str, **changes: Any) -> dict[str, Rule]:
    """The rules of the second layer and of what is in no layer, by target."""
    architecture, config = family(name, **changes)
    found = {rule.target.removeprefix("blk.1."): rule for rule in architecture.rules(config)}
    return {target: rule for target, rule in found.items() if not target.startswith("blk.0.")}


def test_the_sizes_of_latent_attention() -> None:
    found = metadata("DeepseekV3ForCausalLM")
    assert {key: value for key, value in found.items() if key.startswith("attention.")} == {
        "attention.head_count": 4,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "attention.q_lora_rank": 40,
        "attention.kv_lora_rank": 24,
        "attention.key_length": 32,
        "attention.value_length": 24,
        "attention.key_length_mla": 20,
        "attention.value_length_mla": 10,
    }
    assert found["rope.dimension_count"] == 8


def test_two_stacks_of_one_matrix() -> None:
    found = rules("DeepseekV2ForCausalLM")
    keys, values = found["attn_k_b.weight"], found["attn_v_b.weight"]
    assert keys.source == values.source == "model.layers.1.self_attn.kv_b_proj.weight"
    assert keys.shape_of_sources == values.shape_of_sources == (88, 24)
    assert (keys.shape, keys.transposed, keys.row_order[1]) == ((4, 24, 12), True, range(22, 34))
    assert (values.shape, values.transposed, values.row_order[1]) == ((4, 10, 24), False, range(34, 44))
    assert found["attn_q_b.weight"].shape == (80, 40)
    assert "exp_probs_b.bias" not in found
    assert "exp_probs_b.bias" in rules("DeepseekV3ForCausalLM")


def test_queries_from_the_residual_stream() -> None:
    for count, rows in ((26, 100), (27, 100), (48, 128256)):
        lite = {"num_hidden_layers": count, "vocab_size": rows}
        assert "attention.q_lora_rank" not in metadata("DeepseekV2ForCausalLM", **lite, q_lora_rank=None)
        with pytest.raises(ArchitectureError, match=f"q_lora_rank 40 with {count} layers"):
            metadata("DeepseekV2ForCausalLM", **lite)
    assert rules("DeepseekV2ForCausalLM", num_hidden_layers=27, q_lora_rank=None)["attn_q.weight"].shape == (80, 64)
    with pytest.raises(ArchitectureError, match="q_lora_rank None with 48 layers"):
        metadata("DeepseekV2ForCausalLM", num_hidden_layers=48, q_lora_rank=None)


def test_attention_that_yarn_scales() -> None:
    scaling = {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}
    found = metadata("DeepseekV2ForCausalLM", rope_scaling=scaling)
    assert found["rope.scaling.yarn_log_multiplier"] == pytest.approx(0.0707)
    for change in ({"mscale": 1.0}, {"mscale_all_dim": None}, {"mscale": None}):
        with pytest.raises(ArchitectureError, match="mscale"):
            metadata("DeepseekV2ForCausalLM", rope_scaling={**scaling, **change})


def test_dense_layers_listed_one_by_one() -> None:
    found = metadata("Glm4MoeLiteForCausalLM", mlp_layer_types=["dense", "dense"])
    assert (found["leading_dense_block_count"], found["expert_gating_func"]) == (2, 2)
    assert metadata("Glm4MoeLiteForCausalLM")["leading_dense_block_count"] == 1
    assert [metadata("Glm4MoeLiteForCausalLM", num_nextn_predict_layers=n)["block_count"] for n in (0, 1)] == [2, 3]
    assert any(".nextn." in target for target in rules("Glm4MoeLiteForCausalLM", num_nextn_predict_layers=1))


def test_groups_of_heads_in_one_matrix() -> None:
    found = rules("InternLM2ForCausalLM")
    orders = {name: found[f"attn_{name}.weight"].row_order for name in "qkv"}
    assert orders == {
        "q": (range(32), range(64, 96)),
        "k": (range(32, 48), range(96, 112)),
        "v": (range(48, 64), range(112, 128)),
    }
    assert [found[f"attn_{name}.weight"].arrange is None for name in "qkv"] == [False, False, True]
    rows = np.arange(32)[:, None]
    arrange = found["attn_q.weight"].arrange
    assert arrange is not None
    assert arrange(rows)[:4, 0].tolist() == [0, 8, 1, 9]


def test_the_scales_of_minicpm() -> None:
    found = metadata("MiniCPMForCausalLM")
    assert (found["embedding_scale"], found["logit_scale"]) == (12.0, 0.25)
    assert found["residual_scale"] == pytest.approx(1.4 / 2**0.5)
    long = {"rope_scaling": LONG, "original_max_position_embeddings": 8192}
    assert metadata("MiniCPMForCausalLM", **long)["rope.scaling.type"] == "longrope"
    architecture, config = family("MiniCPMForCausalLM", **long)
    assert [made.target for made in architecture.generated(config)] == [
        "rope_factors_long.weight",
        "rope_factors_short.weight",
    ]


def test_baichuan() -> None:
    found = metadata("BaichuanForCausalLM", num_hidden_layers=40, model_max_length=2048)
    assert (found["context_length"], found["rope.dimension_count"]) == (2048, 16)
    assert "attention.head_count_kv" not in found
    assert metadata("BaichuanForCausalLM", max_position_embeddings=4096, rope_theta=10000)["rope.freq_base"] == 1e4
    assert rules("BaichuanForCausalLM")["output.weight"].compute is None
    divided = rules("BaichuanForCausalLM", vocab_size=125700)["output.weight"]
    assert divided.bends
    assert divided.compute is not None
    values = np.array([[3, 4], [0, 0], [5e-8, 0]], dtype=np.float16)
    np.testing.assert_allclose(divided.compute(values, 0), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)


def test_chatglm_under_its_own_names() -> None:
    found = metadata("ChatGLMModel", layernorm_epsilon=1.5625e-7, vocab_size=1)
    assert (found["rope.freq_base"], found["rope.dimension_count"]) == (5e6, 8)
    assert (found["attention.head_count_kv"], found["context_length"]) == (2, 8192)
    assert found["attention.layer_norm_rms_epsilon"] == pytest.approx(1.5625e-7)
    assert rules("ChatGLMModel")["token_embd.weight"].shape == (100, 64)
    assert rules("ChatGLMModel", add_qkv_bias=True)["attn_qkv.bias"].shape == (128,)
    with pytest.raises(ArchitectureError, match="head_dim 32"):
        metadata("ChatGLMModel", kv_channels=32)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("DeepseekV2ForCausalLM", {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}),
        ("DeepseekV2ForCausalLM", {"topk_method": "greedy", "n_group": 2, "topk_group": 1}),
        ("DeepseekV2ForCausalLM", {"norm_topk_prob": True}),
        ("DeepseekV2ForCausalLM", {"scoring_func": "sigmoid"}),
        ("DeepseekV2ForCausalLM", {"attention_bias": True}),
        ("DeepseekV2ForCausalLM", {"moe_layer_freq": 2}),
        ("DeepseekV2ForCausalLM", {"qk_rope_head_dim": 7}),
        ("DeepseekV2ForCausalLM", {"kv_lora_rank": None}),
        ("DeepseekV2ForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("DeepseekV3ForCausalLM", {"rope_interleave": False}),
        ("DeepseekV3ForCausalLM", {"scoring_func": "softmax"}),
        ("DeepseekV3ForCausalLM", {"topk_method": "greedy"}),
        ("DeepseekV3ForCausalLM", {"n_group": 3}),
        ("DeepseekV3ForCausalLM", {"n_group": 2, "topk_group": 2}),
        ("Glm4MoeLiteForCausalLM", {"mlp_layer_types": ["sparse", "dense"]}),
        ("Glm4MoeLiteForCausalLM", {"first_k_dense_replace": 2}),
        ("MiniCPM3ForCausalLM", {"scale_emb": 10}),
        ("MiniCPM3ForCausalLM", {"v_head_dim": 10}),
        ("MiniCPM3ForCausalLM", {"q_lora_rank": None}),
        ("MiniCPM3ForCausalLM", {"num_key_value_heads": 2}),
        ("MiniCPM3ForCausalLM", {"rope_theta": 20000.0}),
        ("MiniCPMForCausalLM", {"num_experts": 8}),
        ("MiniCPMForCausalLM", {"scale_depth": 0}),
        ("MiniCPMForCausalLM", {"rope_scaling": {**LONG, "original_max_position_embeddings": 4096}}),
        ("MiniCPMForCausalLM", {"rope_scaling": YARN}),
        ("InternLM2ForCausalLM", {"bias": True}),
        ("InternLM2ForCausalLM", {"tie_word_embeddings": True}),
        ("BaichuanForCausalLM", {"num_hidden_layers": 30}),
        ("BaichuanForCausalLM", {"rope_theta": 20000.0}),
        ("BaichuanForCausalLM", {"num_key_value_heads": 2}),
        ("BaichuanForCausalLM", {"tie_word_embeddings": True}),
        ("ChatGLMModel", {"add_bias_linear": True}),
        ("ChatGLMModel", {"multi_query_attention": False}),
        ("ChatGLMModel", {"quantization_bit": 4}),
        ("ChatGLMModel", {"pre_seq_len": 128}),
        ("ChatGLMModel", {"rope_ratio": 0}),
    ],
    ids=str,
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name: str, change: dict[str, Any]) -> None:
    metadata(name)
    with pytest.raises(ArchitectureError, match=r"rope|groups|" + "|".join(change)):
        metadata(name, **change)
