"""Rotary scaling that a GGUF file has as tensors: whoever takes the setting writes them, in every family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from quantkit.arch.families import find_architecture
from quantkit.errors import ArchitectureError
from tests.support.checkpoints import KINDS

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
# Whose own code reads no such setting: it rotates nothing, or scales in its own way.
UNREAD = {"qwen", "nemotron-h"}
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_hidden_layers": 2}


def written(kind: str, scaling: Mapping[str, Any]) -> set[str] | None:
    """The tensors that a kind of checkpoint gets for its rotary embedding; None if it is refused."""
    family = KINDS[kind]
    config = {**SIZES, "hidden_act": "silu", "vocab_size": 512, "tie_word_embeddings": family.tied, **family.config}
    architecture = find_architecture(config, "config.json")
    named = {**config, "rope_scaling": dict(scaling), "rope_parameters": None}
    try:
        settings = architecture.settings(named)
        architecture.metadata(settings)
        return {made.target for made in architecture.generated(settings) if made.target.startswith("rope_")}
    except ArchitectureError:
        return None


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - UNREAD))
def test_scaling_that_is_taken_is_written(kind: str) -> None:
    sizes = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16, "original_max_position_embeddings": 4096}
    longrope = written(kind, {"rope_type": "longrope", **sizes})
    assert written(kind, LLAMA3) in (None, {"rope_freqs.weight"})
    assert longrope in (None, {"rope_factors_long.weight", "rope_factors_short.weight"})


def test_some_families_take_such_scaling() -> None:
    taking = {kind for kind in KINDS if written(kind, LLAMA3)}
    assert {"llama3-untied", "exaone4", "arcee", "internlm3", "llama4"} <= taking
