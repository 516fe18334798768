"""Gemma 4: layers of two sizes, keys of other layers, embeddings for each layer; and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from quantkit.arch.base import Rule
from quantkit.arch.families import ARCHITECTURES
from quantkit.errors import ArchitectureError
from quantkit.ggml.types import GGMLType
from quantkit.model.opened import base_type

NAME = "Gemma4ForCausalLM"
FULL, WINDOW = "full_attention", "sliding_attention"
SMALL: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size": 100,
    "vocab_size_per_layer_input": 100,
    "layer_types": [WINDOW, FULL, WINDOW, FULL],
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
}
LARGE: Mapping[str, Any] = {
    **SMALL,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_global_key_value_heads": 1,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
}


def metadata(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """By key without the architecture's name, the values."""
    architecture = ARCHITECTURES[NAME]
    entries = architecture.metadata(architecture.settings({**config, **changes}))
    return {entry.key.removeprefix("gemma4."): entry.value for entry in entries}


def rules(config: Mapping[str, Any], **changes: Any) -> dict[str, Rule]:
    """By target."""
    architecture = ARCHITECTURES[NAME]
    return {rule.target: rule for rule in architecture.rules(architecture.settings({**config, **changes}))}


def everything(config: Mapping[str, Any]) -> None:
    architecture = ARCHITECTURES[NAME]
    read = architecture.settings(config)
    architecture.metadata(read)
    architecture.rules(read)
    architecture.generated(read)


def test_a_small_model() -> None:
    found = metadata(SMALL)
    assert found["feed_forward_length"] == [96, 96, 192, 192]
    assert (found["attention.head_count_kv"], found["attention.shared_kv_layers"]) == (2, 2)
    assert (found["attention.key_length"], found["attention.key_length_swa"]) == (32, 16)
    assert found["attention.sliding_window_pattern"] == [True, False, True, False]
    assert (found["rope.freq_base"], found["rope.freq_base_swa"]) == (1e6, 1e4)
    assert "expert_count" not in found
    assert "final_logit_softcapping" not in found
    tensors = rules(SMALL)
    assert tensors["per_layer_token_embd.weight"].shape == (100, 32)
    assert tensors["blk.0.inp_gate.weight"].shape == (8, 64)
    assert tensors["blk.1.attn_k.weight"].shape == (64, 64)
    assert tensors["blk.2.ffn_up.weight"].shape == (192, 64)
    idle = [target for target, rule in tensors.items() if rule.idle]
    assert idle == [f"blk.{i}.attn_{name}.weight" for i in (2, 3) for name in ("k", "k_norm", "v")]
    assert all(tensors[target].optional for target in idle)


def test_a_large_model() -> None:
    found, tensors = metadata(LARGE), rules(LARGE)
    assert found["attention.head_count_kv"] == [2, 1, 2, 1]
    assert found["embedding_length_per_layer_input"] == 0
    assert tensors["blk.0.attn_v.weight"].shape == (32, 64)
    assert "blk.1.attn_v.weight" not in tensors
    assert not {"per_layer_token_embd.weight", "blk.0.inp_gate.weight"} & tensors.keys()


def test_experts_beside_the_mlp() -> None:
    settings = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24}
    found, tensors = metadata(LARGE, **settings), rules(LARGE, **settings)
    assert (found["expert_count"], found["expert_used_count"], found["expert_feed_forward_length"]) == (4, 2, 24)
    assert tensors["blk.3.ffn_gate_up_exps.weight"].shape == (4, 48, 64)
    assert tensors["blk.3.ffn_down_exps.scale"].shape == (4,)
    assert base_type("blk.3.ffn_gate_inp.weight", (4, 64), GGMLType.F16) is GGMLType.F32


def test_what_only_full_layers_have_as_transformers_writes_it() -> None:
    written = {key: value for key, value in LARGE.items() if "global" not in key}
    own = {"head_dim": 32, "num_key_value_heads": 1}
    assert metadata({**written, "per_layer_config": {"01": own, "3": own}}) == metadata(LARGE)
    for wrong in ({"01": own}, {"1": own, "3": {**own, "head_dim": 16}}, {"1": {**own, "a": 1}, "3": {**own, "a": 1}}):
        with pytest.raises(ArchitectureError, match="per_layer_config"):
            metadata({**written, "per_layer_config": wrong})


def test_the_elements_that_are_not_rotated() -> None:
    architecture = ARCHITECTURES[NAME]
    (made,) = architecture.generated(architecture.settings(SMALL))
    assert made.target == "rope_freqs.weight"
    assert np.array_equal(made.values, np.array([1.0] * 4 + [1e30] * 12, np.float32))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_types": [FULL, WINDOW, FULL, WINDOW]}, "the last of layer_types"),
        ({"layer_types": [FULL, FULL, WINDOW, FULL]}, "num_kv_shared_layers 2"),
        ({"num_kv_shared_layers": 4}, "num_kv_shared_layers 4"),
        ({"layer_types": [FULL]}, "layer_types"),
        ({"vocab_size_per_layer_input": 90}, "vocab_size_per_layer_input 90"),
        ({"hidden_activation": "silu"}, "hidden_activation"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"rope_parameters": {FULL: {"rope_type": "default"}}}, "rope_type"),
        ({"rope_parameters": {FULL: {"rope_type": "proportional", "factor": 2.0}}}, "factor"),
        ({"rope_parameters": {FULL: {"rope_type": "proportional", "partial_rotary_factor": 0}}}, "rotates 0"),
        (
            {"rope_parameters": {FULL: {"rope_type": "proportional"}, WINDOW: {"rope_type": "linear", "factor": 2}}},
            "linear",
        ),
    ],
)
def test_what_llama_cpp_does_not_compute(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArchitectureError, match=said):
        everything({**SMALL, **changes})


def test_pictures_may_attend_to_each_other() -> None:
    assert metadata(SMALL, use_bidirectional_attention="vision") == metadata(SMALL)
