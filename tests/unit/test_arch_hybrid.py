"""Families that mix kinds of layers: what each adds to metadata and tensors, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from quantkit.arch.base import Rule
from quantkit.arch.families import ARCHITECTURES, find_architecture
from quantkit.errors import ArchitectureError
from quantkit.ggml.types import GGMLType
from quantkit.model.planned import base_type

PLAIN: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
}
# What a family's config.json says beyond that.
OWN: Mapping[str, Mapping[str, Any]] = {
    "Lfm2ForCausalLM": {"norm_eps": 1e-5, "full_attn_idxs": [1], "block_multiple_of": 16},
    "Lfm2MoeForCausalLM": {
        "norm_eps": 1e-5,
        "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 1,
        "num_experts": 4,
        "moe_intermediate_size": 32,
    },
    "FalconH1ForCausalLM": {"mamba_d_ssm": 48, "mamba_n_heads": 6, "mamba_n_groups": 2, "mamba_d_state": 4},
    "NemotronHForCausalLM": {
        "hybrid_override_pattern": "ME*",
        "layer_norm_epsilon": 1e-5,
        "mamba_num_heads": 6,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 4,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 40,
    },
    "Llama4ForCausalLM": {
        "num_hidden_layers": 4,
        "num_local_experts": 3,
        "head_dim": 16,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 160,
    },
    "GraniteMoeForCausalLM": {"num_local_experts": 3},
    "GraniteMoeSharedForCausalLM": {"num_local_experts": 3, "shared_intermediate_size": 48},
    "GraniteMoeHybridForCausalLM": {
        "num_local_experts": 3,
        "shared_intermediate_size": 48,
        "layer_types": ["mamba", "attention", "mamba"],
        "mamba_n_heads": 8,
        "mamba_d_state": 4,
    },
}
GRANITE = ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM", "GraniteMoeHybridForCausalLM")
LLAMA4 = "Llama4ForCausalLM"
LFM2 = ("Lfm2ForCausalLM", "Lfm2MoeForCausalLM")


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    """By key without the architecture's name, the values."""
    config = {"architectures": [name], **PLAIN, **OWN[name], **changes}
    architecture = find_architecture(config, "")
    entries = architecture.metadata(architecture.settings(config))
    return {entry.key.removeprefix(f"{architecture.name}."): entry.value for entry in entries}


def rules(name: str, layer: int, **changes: Any) -> dict[str, Rule]:
    """The rules of one layer and of what is in no layer, by target."""
    architecture = ARCHITECTURES[name]
    found = architecture.rules(architecture.settings({**PLAIN, **OWN[name], **changes}))
    assert len({rule.target for rule in found}) == len(found)
    inside = f"blk.{layer}."
    return {r.target.removeprefix(inside): r for r in found if r.target.startswith(inside) or r.target[:4] != "blk."}


def test_lfm2() -> None:
    found = metadata("Lfm2ForCausalLM")
    assert found["attention.head_count_kv"] == [0, 2, 0]
    assert (found["shortconv.l_cache"], found["feed_forward_length"]) == (3, 64)
    conv, full = rules("Lfm2ForCausalLM", 0), rules("Lfm2ForCausalLM", 1)
    assert conv["shortconv.conv.weight"].shape_of_sources == (64, 1, 3)
    assert conv["shortconv.in_proj.weight"].shape == (192, 64)
    assert full["attn_output.weight"].source == "model.layers.1.self_attn.out_proj.weight"
    assert full["attn_q_norm.weight"].source == "model.layers.1.self_attn.q_layernorm.weight"
    assert not {"attn_q.weight"} & conv.keys()
    assert not {"shortconv.conv.weight"} & full.keys()
    assert conv["token_embd_norm.weight"].source == "model.embedding_norm.weight"
    assert conv["output.weight"].optional


def test_the_older_names_of_lfm2s_settings_count() -> None:
    found = rules("Lfm2ForCausalLM", 0, block_ff_dim=192, tie_embedding=False)
    assert found["ffn_up.weight"].shape == (128, 64)
    assert not found["output.weight"].optional
    assert metadata("Lfm2ForCausalLM", block_auto_adjust_ff_dim=False)["feed_forward_length"] == 96
    assert metadata("Lfm2ForCausalLM", full_attn_idxs=None)["attention.head_count_kv"] == [2, 2, 2]
    architecture = ARCHITECTURES["Lfm2ForCausalLM"]
    assert "intermediate_size" not in architecture.sizes_left_out({"block_ff_dim": 96})
    assert "norm_eps" in architecture.filled_in({"max_position_embeddings": 5})[0]


def test_lfm2_moe() -> None:
    found = metadata("Lfm2MoeForCausalLM")
    keys = ("expert_count", "expert_used_count", "leading_dense_block_count", "expert_gating_func")
    assert [found[key] for key in keys] == [4, 4, 1, 2]
    dense, sparse = rules("Lfm2MoeForCausalLM", 0), rules("Lfm2MoeForCausalLM", 1)
    assert dense["ffn_down.weight"].shape == (64, 96)
    assert sparse["ffn_up_exps.weight"].sources[3] == "model.layers.1.feed_forward.experts.3.w3.weight"
    assert sparse["exp_probs_b.bias"].source == "model.layers.1.feed_forward.expert_bias"
    assert not {"ffn_down_exps.weight"} & dense.keys()
    assert not {"ffn_down.weight"} & sparse.keys()


def test_falcon_h1() -> None:
    found = metadata("FalconH1ForCausalLM")
    sizes = {key: found[f"ssm.{key}"] for key in ("inner_size", "time_step_rank", "group_count", "state_size")}
    assert sizes == {"inner_size": 48, "time_step_rank": 6, "group_count": 2, "state_size": 4}
    assert (found["attention.key_length"], found["vocab_size"]) == (8, 100)
    layer = rules("FalconH1ForCausalLM", 1)
    assert layer["ssm_in.weight"].shape == (48 + 48 + 2 * 2 * 4 + 6, 64)
    assert (layer["ssm_conv1d.weight"].shape, layer["ssm_conv1d.weight"].shape_of_sources) == ((64, 4), (64, 1, 4))
    assert {target: layer[target].folds for target in ("ssm_a", "ssm_d", "ssm_conv1d.weight", "ssm_dt.bias")} == {
        "ssm_a": True,
        "ssm_d": True,
        "ssm_conv1d.weight": False,
        "ssm_dt.bias": False,
    }
    assert "ssm_norm.weight" not in layer
    normed = rules("FalconH1ForCausalLM", 1, mamba_rms_norm=True, mamba_norm_before_gate=False)["ssm_norm.weight"]
    assert (normed.shape, normed.shape_of_sources, normed.folds) == ((2, 24), (48,), True)
    assert metadata("FalconH1ForCausalLM", mamba_d_ssm=None, mamba_n_heads=8)["ssm.inner_size"] == 128


def test_the_multipliers_of_falcon_h1_are_in_its_matrices() -> None:
    changes = {
        "ssm_in_multiplier": 2.0,
        "ssm_multipliers": [1.0, 2.0, 3.0, 4.0, 5.0],
        "key_multiplier": 3.0,
        "attention_in_multiplier": 0.5,
        "mlp_multipliers": [7.0, 9.0],
        "embedding_multiplier": 11.0,
    }
    found = rules("FalconH1ForCausalLM", 0, **changes)
    ones = np.ones((20, 3), dtype=np.float32)

    def times(target: str, start: int = 0, values: npt.NDArray[Any] = ones) -> list[float]:
        compute = found[target].compute
        assert compute is not None
        made = compute(values, start)
        assert (made.dtype, made.shape) == (values.dtype, values.shape)
        return [float(value) for value in dict.fromkeys(made[:, 0].tolist())]

    assert times("ssm_in.weight") == [2.0]
    assert times("ssm_in.weight", 40) == [2.0, 4.0]
    assert times("ssm_in.weight", 90) == [4.0, 6.0, 8.0]
    assert times("ssm_in.weight", 98) == [6.0, 8.0, 10.0]
    assert times("attn_k.weight", values=ones.astype(np.float16)) == [1.5]
    assert [times(f"{name}.weight") for name in ("attn_q", "ffn_gate", "ffn_down")] == [[0.5], [7.0], [9.0]]
    assert times("token_embd.weight") == [11.0]
    assert found["ffn_up.weight"].compute is None
    with pytest.raises(ArchitectureError, match="mlp_multipliers"):
        rules("FalconH1ForCausalLM", 0, mlp_multipliers=[1.0])


def test_nemotron_h() -> None:
    found = metadata("NemotronHForCausalLM", num_hidden_layers=52)  # the list counts
    assert (found["block_count"], found["context_length"]) == (3, 2**20)
    assert (found["attention.head_count_kv"], found["feed_forward_length"]) == ([0, 0, 2], [0, 24, 0])
    assert (found["expert_weights_norm"], found["expert_weights_scale"]) == (True, 1.0)
    assert "moe_latent_size" not in found
    sparse = rules("NemotronHForCausalLM", 1)
    assert sparse["ffn_up_exps.weight"].sources[7] == "backbone.layers.1.mixer.experts.7.up_proj.weight"
    assert (sparse["ffn_up_exps.weight"].shape, sparse["ffn_down_shexp.weight"].shape) == ((8, 24, 64), (64, 40))
    assert "ffn_latent_up.weight" not in sparse
    assert sparse["token_embd.weight"].source == "backbone.embeddings.weight"
    assert sparse["output.weight"].source == "lm_head.weight"
    latent = rules("NemotronHForCausalLM", 1, moe_latent_size=16)
    assert (latent["ffn_down_exps.weight"].shape, latent["ffn_latent_up.weight"].shape) == ((8, 16, 24), (64, 16))
    assert rules("NemotronHForCausalLM", 0)["ssm_norm.weight"].shape == (2, 24)
    assert rules("NemotronHForCausalLM", 2)["attn_q.weight"].source == "backbone.layers.2.mixer.q_proj.weight"


def test_the_layers_of_nemotron_h_have_several_names() -> None:
    pattern = metadata("NemotronHForCausalLM")
    for listed in (["mamba", "moe", "attention"], ["linear_attention", "moe", "full_attention"]):
        changes = {"hybrid_override_pattern": None, "layers_block_type": listed}
        assert metadata("NemotronHForCausalLM", **changes) == pattern
    config = {"architectures": ["NemotronHForCausalLM"], **PLAIN, **OWN["NemotronHForCausalLM"]}
    assert find_architecture(config, "").name == "nemotron_h_moe"
    dense = {**config, "hybrid_override_pattern": "M-*"}
    assert find_architecture(dense, "").name == "nemotron_h"
    assert metadata("NemotronHForCausalLM", hybrid_override_pattern="M-*")["feed_forward_length"] == [0, 96, 0]
    mlp = rules("NemotronHForCausalLM", 1, hybrid_override_pattern="M-*")
    assert {"ffn_up.weight", "ffn_down.weight", "attn_norm.weight"} < mlp.keys()
    assert "ffn_gate.weight" not in mlp


def test_granites_experts_are_rows_of_two_tensors() -> None:
    for name in GRANITE:
        found, entries = rules(name, 1), metadata(name)
        assert (entries["expert_count"], entries["feed_forward_length"], entries["logit_scale"]) == (3, 96, 1.0)
        cut = {kind: found[f"ffn_{kind}_exps.weight"] for kind in ("gate", "up")}
        assert {rule.source for rule in cut.values()} == {"model.layers.1.block_sparse_moe.input_linear.weight"}
        assert {rule.shape for rule in cut.values()} == {(3, 96, 64)}
        assert cut["gate"].row_order == (range(96), range(192, 288), range(384, 480))
        assert cut["up"].row_order == (range(96, 192), range(288, 384), range(480, 576))
        assert cut["up"].shape_of_sources == (3, 192, 64)
        shared = name != "GraniteMoeForCausalLM"
        assert ("ffn_up_shexp.weight" in found) is shared
        assert entries.get("expert_shared_feed_forward_length") == (48 if shared else None)
    up = rules("GraniteMoeSharedForCausalLM", 0)["ffn_up_shexp.weight"]
    assert (up.row_order, up.shape, up.shape_of_sources) == ((range(48, 96),), (48, 64), (96, 64))


def test_granite_4() -> None:
    config = {"architectures": [GRANITE[2]], **PLAIN, **OWN[GRANITE[2]]}
    full = {"layer_types": ["attention"] * 3, "position_embedding_type": "rope"}
    dense = {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 96}
    kinds: dict[str, dict[str, Any]] = {
        "granitehybrid": {},
        "granitemoe": full,
        "granite": {**full, **dense},
    }
    assert {name: find_architecture({**config, **changes}, "").name for name, changes in kinds.items()} == {
        name: name for name in kinds
    }
    found = metadata(GRANITE[2])
    assert (found["context_length"], found["rope.scaling.finetuned"]) == (2**20, False)
    assert (found["attention.head_count_kv"], found["ssm.inner_size"]) == ([0, 2, 0], 128)
    found = metadata(GRANITE[2], **full)
    assert (found["context_length"], found["rope.scaling.finetuned"]) == (8192, True)
    assert "ssm_in.weight" in rules(GRANITE[2], 0)
    assert "attn_q.weight" in rules(GRANITE[2], 1)
    assert rules(GRANITE[2], 0, **dense)["ffn_up.weight"].row_order == (range(96, 192),)


def test_llama_4() -> None:
    found = metadata(LLAMA4)
    assert (found["feed_forward_length"], found["expert_feed_forward_length"]) == (160, 96)
    keys = ("interleave_moe_layer_step", "expert_count", "expert_used_count", "rope.freq_base")
    assert [found[key] for key in keys] == [2, 3, 1, 500000.0]
    dense, sparse = rules(LLAMA4, 0), rules(LLAMA4, 1)
    assert dense["ffn_up.weight"].shape == (160, 64)
    gate, up, down = (sparse[f"ffn_{kind}_exps.weight"] for kind in ("gate", "up", "down"))
    assert gate.source == up.source == "model.layers.1.feed_forward.experts.gate_up_proj"
    assert gate.source_shape == (3, 64, 192)
    assert gate.row_order == up.row_order == (range(64), range(64, 128), range(128, 192))
    assert (gate.column_order, up.column_order) == ((range(96),), (range(96, 192),))
    assert (down.shape, down.source_shape, down.column_order) == ((3, 64, 96), (3, 96, 64), ())
    assert gate.transposed
    assert down.transposed
    assert sparse["ffn_up_shexp.weight"].shape == (96, 64)
    # Maverick; rotary settings as its config.json has them.
    assert metadata(LLAMA4, num_local_experts=128, use_qk_norm=False)["expert_count"] == 128
    assert metadata(LLAMA4, no_rope_layers=[1, 1, 1, 0, 1], attn_temperature_tuning=4) == found
    assert metadata(LLAMA4, no_rope_layers=[], moe_layers=[1, 3]) == found


@pytest.mark.parametrize("name", ["shortconv.conv.weight", "ssm_conv1d.weight", "ssm_norm.weight", "ssm_a", "ssm_d"])
def test_small_tensors_of_mixers_stay_float32(name: str) -> None:
    assert base_type(f"blk.0.{name}", (64, 4), GGMLType.F16) is GGMLType.F32
    assert base_type("blk.0.ssm_in.weight", (64, 64), GGMLType.F16) is GGMLType.F16


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, {"is_causal": False}) for name in OWN),
        *((name, {"hidden_act": "relu"}) for name in GRANITE),
        *((name, {"head_dim": 16}) for name in GRANITE),
        *((name, {"logits_scaling": 0}) for name in GRANITE),
        *((name, {"num_experts_per_tok": 4}) for name in GRANITE),
        *((LLAMA4, {key: False}) for key in ("attn_temperature_tuning", "use_qk_norm")),
        *((LLAMA4, {key: 4096}) for key in ("attention_chunk_size", "floor_scale", "attn_scale")),
        *((LLAMA4, {"attention_chunk_size": size}) for size in (None, 0)),
        *((LLAMA4, {"no_rope_layers": layers}) for layers in ([1, 1, 1, 1], [1, 1, 1], [0, 1, 1, 1])),
        *((LLAMA4, {"moe_layers": layers}) for layers in ([], [0, 1, 2, 3])),
        (LLAMA4, {"layer_types": ["full_attention"] * 4}),
        (LLAMA4, {"no_rope_layer_interval": 2}),
        (LLAMA4, {"num_local_experts": 0}),
        (LLAMA4, {"num_experts_per_tok": 4}),
        (LLAMA4, {"interleave_moe_layer_step": 0}),
        (LLAMA4, {"attention_bias": True}),
        (LLAMA4, {"hidden_act": "gelu"}),
        (LLAMA4, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}}),
        (GRANITE[2], {"position_embedding_type": "rope"}),
        (GRANITE[2], {"layer_types": ["attention"] * 3, "position_embedding_type": "nope"}),
        (GRANITE[2], {"layer_types": ["mamba"] * 3}),
        (GRANITE[2], {"layer_types": None}),
        (GRANITE[2], {"num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 64}),
        (GRANITE[2], {"mamba_expand": 3}),
        (GRANITE[2], {"mamba_proj_bias": True}),
        *((name, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}) for name in (*LFM2, "FalconH1ForCausalLM")),
        *((name, {"conv_bias": True}) for name in LFM2),
        *((name, {"conv_L_cache": 0}) for name in LFM2),
        *((name, {"head_dim": 16}) for name in LFM2),
        *((name, {"layer_types": ["conv", "sliding_attention", "conv"]}) for name in LFM2),
        ("Lfm2ForCausalLM", {"block_ffn_dim_multiplier": None}),
        ("Lfm2MoeForCausalLM", {"layer_types": ["conv"]}),
        ("Lfm2MoeForCausalLM", {"norm_topk_prob": False}),
        ("Lfm2MoeForCausalLM", {"use_expert_bias": False}),
        ("Lfm2MoeForCausalLM", {"routed_scaling_factor": 2.5}),
        ("Lfm2MoeForCausalLM", {"num_experts_per_tok": 5}),
        ("Lfm2MoeForCausalLM", {"num_dense_layers": -1}),
        ("FalconH1ForCausalLM", {"hidden_act": "relu"}),
        *(("FalconH1ForCausalLM", {f"{key}_bias": True}) for key in ("attention", "mlp", "projectors", "mamba_proj")),
        ("FalconH1ForCausalLM", {"mamba_conv_bias": False}),
        ("FalconH1ForCausalLM", {"mamba_rms_norm": True, "mamba_norm_before_gate": True}),
        ("FalconH1ForCausalLM", {"mamba_d_head": 4}),
        ("FalconH1ForCausalLM", {"mamba_n_heads": 5}),
        ("FalconH1ForCausalLM", {"mamba_n_groups": 4}),
        ("FalconH1ForCausalLM", {"time_step_limit": [0.1, 2.0]}),
        ("FalconH1ForCausalLM", {"tie_word_embeddings": True, "lm_head_multiplier": 0.5}),
        ("FalconH1ForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        *(("NemotronHForCausalLM", {"hybrid_override_pattern": text}) for text in ("ME-*", "MMM", "*-*", "MX*", 3)),
        ("NemotronHForCausalLM", {"layers_block_type": ["linear_attention", "full_attention", "moe"]}),
        ("NemotronHForCausalLM", {"layer_types": ["linear_attention"]}),
        ("NemotronHForCausalLM", {"time_step_min": 0.01}),
        ("NemotronHForCausalLM", {"mamba_dt_min": 0.01}),
        ("NemotronHForCausalLM", {"mlp_hidden_act": "silu"}),
        ("NemotronHForCausalLM", {"mamba_hidden_act": "gelu"}),
        ("NemotronHForCausalLM", {"sliding_window": 16}),
        *(("NemotronHForCausalLM", {key: 2}) for key in ("n_group", "topk_group", "n_shared_experts")),
        ("NemotronHForCausalLM", {"num_nextn_predict_layers": 1}),
        *(("NemotronHForCausalLM", {key: True}) for key in ("use_bias", "attention_bias", "mlp_bias")),
        ("NemotronHForCausalLM", {"use_conv_bias": False}),
    ],
    ids=str,
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name: str, change: dict[str, Any]) -> None:
    metadata(name)
    with pytest.raises(ArchitectureError, match="rope|" + "|".join(change)):
        metadata(name, **change)
