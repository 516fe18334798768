"""Gemma 3n: what its config becomes, and what llama.cpp's graph, which has the published models' numbers, cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from quantkit.arch.base import Rule
from quantkit.arch.families import ARCHITECTURES
from quantkit.errors import ArchitectureError

NAME = "Gemma3nForCausalLM"
FULL, WINDOW = "full_attention", "sliding_attention"
# 25 layers: five of them use the keys and values of others.
SMALL: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 25,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 110,
    "vocab_size_per_layer_input": 100,
    "num_kv_shared_layers": 5,
}
# What no layer reads, by the number of values.
IDLE = {"k.weight": 32 * 64, "v.weight": 32 * 64, "k_norm.weight": 16}


def metadata(**changes: Any) -> dict[str, Any]:
    """By key without the architecture's name, the values."""
    architecture = ARCHITECTURES[NAME]
    entries = architecture.metadata(architecture.settings({**SMALL, **changes}))
    return {entry.key.removeprefix("gemma3n."): entry.value for entry in entries}


def rules(**changes: Any) -> dict[str, Rule]:
    """By target."""
    architecture = ARCHITECTURES[NAME]
    return {rule.target: rule for rule in architecture.rules(architecture.settings({**SMALL, **changes}))}


def test_metadata() -> None:
    found = metadata()
    assert found["feed_forward_length"] == [96] * 25
    assert found["attention.shared_kv_layers"] == 5
    assert found["attention.sliding_window_pattern"] == [True, True, True, True, False] * 5
    assert (found["rope.freq_base"], found["rope.freq_base_swa"]) == (1e6, 1e4)
    assert (found["altup.num_inputs"], found["altup.active_idx"]) == (4, 0)
    scale = found["activation_sparsity_scale"]
    assert scale == [pytest.approx(1.6448536)] * 10 + [float("-inf")] * 15
    # As transformers writes them.
    written = {
        "intermediate_size": [96] * 25,
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 15,
        "layer_types": [WINDOW, WINDOW, WINDOW, WINDOW, FULL] * 5,
        "rope_parameters": {FULL: {"rope_theta": 1e6}, WINDOW: {"rope_theta": 1e4}},
    }
    assert metadata(**written) == found


def test_tensors() -> None:
    found = rules()
    assert found["altup_proj.weight"].shape == (3, 64, 64)
    assert found["altup_proj.weight"].sources[2] == "model.altup_projections.2.weight"
    assert found["blk.0.altup_predict_coef.weight"].shape == (16, 4)
    assert found["blk.0.laurel_l.weight"].shape == (64, 64)
    table = found["per_layer_token_embd.weight"]
    assert (table.shape, table.shape_of_sources, table.zero_rows) == ((110, 25 * 256), (100, 25 * 256), 10)
    assert rules(vocab_size=100)["per_layer_token_embd.weight"].zero_rows == 0
    assert found["token_embd.weight"].zero_rows == 0
    idle = [target for target, rule in found.items() if rule.idle]
    assert idle == [f"blk.{i}.attn_{name}.weight" for i in range(20, 25) for name in ("k", "v", "k_norm")]
    assert all(found[target].optional for target in idle)


def test_what_llama_cpp_wants_though_nobody_reads_it() -> None:
    architecture = ARCHITECTURES[NAME]
    made = architecture.generated(architecture.settings(SMALL))
    sizes = {one.target: one.values.size for one in made}
    assert sizes == {f"blk.{i}.attn_{name}": size for i in range(20, 25) for name, size in IDLE.items()}
    assert not any(np.any(one.values) for one in made)


def test_a_note_about_tokens_without_embeddings_for_each_layer() -> None:
    architecture = ARCHITECTURES[NAME]
    (note,) = architecture.notes(architecture.settings(SMALL))
    assert note.startswith("tokens from 100 on")
    assert architecture.notes(architecture.settings({**SMALL, "vocab_size": 100})) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_kv_shared_layers": 10}, "num_kv_shared_layers 10 is not supported"),
        ({"num_kv_shared_layers": 0}, "num_kv_shared_layers 0 is not supported"),
        ({"layer_types": [WINDOW] * 20 + [FULL] * 5}, "must be sliding_attention and full_attention"),
        ({"activation_sparsity_pattern": [0.9] * 10 + [0.0] * 15}, "activation_sparsity_pattern"),
        ({"activation_sparsity_pattern": [0.95] * 25}, "activation_sparsity_pattern"),
        ({"num_hidden_layers": 10, "num_kv_shared_layers": 0}, "activation_sparsity_pattern"),
        ({"intermediate_size": [96] * 24 + [128]}, "intermediate_size"),
        ({"intermediate_size": [96] * 24}, "intermediate_size"),
        ({"altup_num_inputs": 2}, "altup_num_inputs 2 is not supported"),
        ({"altup_active_idx": 1}, "altup_active_idx 1 is not supported"),
        ({"altup_correct_scale": False}, "altup_correct_scale False is not supported"),
        ({"laurel_rank": 32}, "laurel_rank 32 is not supported"),
        ({"hidden_size_per_layer_input": 128}, "hidden_size_per_layer_input 128 is not supported"),
        ({"hidden_size_per_layer_input": 0}, "hidden_size_per_layer_input 0 is not supported"),
        ({"final_logit_softcapping": None}, "final_logit_softcapping 0 is not supported"),
        ({"final_logit_softcapping": 20.0}, "final_logit_softcapping 20.0 is not supported"),
        ({"hidden_activation": "gelu"}, "hidden_activation 'gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias True is not supported"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope"),
        ({"rope_parameters": {WINDOW: {"rope_type": "linear", "factor": 2.0}}}, "rope"),
        ({"vocab_size": 357}, "vocab_size is 357, but vocab_size_per_layer_input 100"),
        ({"vocab_size": 99}, "vocab_size is 99, but vocab_size_per_layer_input 100"),
    ],
    ids=str,
)
def test_refusals(changes: Mapping[str, Any], said: str) -> None:
    metadata(), rules()
    with pytest.raises(ArchitectureError, match=said):
        metadata(**changes), rules(**changes)
