"""OLMo 3 and Ministral 3: layers with windows, and YaRN with settings of its own."""

from __future__ import annotations

from typing import Any

import pytest

from quantkit.advise.cache import cache_layers
from quantkit.arch.families import find_architecture
from quantkit.errors import ArchitectureError
from tests.unit.test_arch_families import metadata

FULL, WINDOW = "full_attention", "sliding_attention"
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 24.0,
    "beta_slow": 2.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
    "llama_4_scaling_beta": 0.25,
}


def test_the_layers_with_a_window_are_listed() -> None:
    assert metadata("Olmo3ForCausalLM")["attention.sliding_window_pattern"] == [True, True, True, False, True, True]
    kinds = [FULL, WINDOW, FULL, FULL, WINDOW, FULL]
    found = metadata("Olmo3ForCausalLM", layer_types=kinds, sliding_window=300)
    assert found["attention.sliding_window_pattern"] == [kind == WINDOW for kind in kinds]
    named = {f"olmo2.{key}": value for key, value in found.items()} | {"general.architecture": "olmo2"}
    assert [layer.window for layer in cache_layers(named)] == [None, 300, None, None, 300, None]


def test_only_the_layers_without_a_window_are_scaled() -> None:
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 1024}
    flat = metadata("Olmo3ForCausalLM", rope_scaling=yarn)
    nested = {FULL: {**yarn, "rope_theta": 5e5}, WINDOW: {"rope_type": "default", "rope_theta": 5e5}}
    assert flat == metadata("Olmo3ForCausalLM", rope_parameters=nested)
    assert (flat["rope.scaling.factor"], flat["rope.freq_base"], flat["rope.freq_base_swa"]) == (8.0, 5e5, 5e5)
    for local, said in (({"rope_theta": 1e4}, "rope_theta"), (yarn, "rope scaling 'yarn'")):
        with pytest.raises(ArchitectureError, match=said):
            metadata("Olmo3ForCausalLM", rope_parameters={**nested, WINDOW: local})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer_types": [FULL] * 5}, "layer_types is 5 entries"),
        ({"layer_types": "full"}, "layer_types is 'full'"),
        ({"layer_types": ["chunked_attention"] * 6}, "'chunked_attention' is not supported"),
        ({"sliding_window": None}, "sliding_window is None"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "transformers reads full_attention and sliding_attention"),
        ({"rope_theta": 1e6}, "rope_theta 1000000.0 is not supported"),  # transformers' other base stays at 500000
    ],
    ids=str,
)
def test_what_olmo3_refuses(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArchitectureError, match=said):
        metadata("Olmo3ForCausalLM", **change)


def test_ministral3_scales_its_queries() -> None:
    found = metadata("Ministral3ForCausalLM", rope_parameters=YARN)
    assert {key: found[key] for key in found if "yarn" in key or "temperature" in key} == {
        "rope.scaling.yarn_beta_fast": 24.0,
        "rope.scaling.yarn_beta_slow": 2.0,
        "rope.scaling.yarn_log_multiplier": 0.5,
        "attention.temperature_scale": 0.25,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"rope_type": "default"},
        {"mscale_all_dim": None},
        {"mscale": 0.5},
        {"mscale": None},
        {"attention_factor": 2.0},
        {"llama_4_scaling_beta": None},
        {"truncate": False},
    ],
    ids=str,
)
def test_what_ministral3_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError, match="|".join(change)):
        metadata("Ministral3ForCausalLM", rope_parameters={**YARN, **change})


def test_the_family_of_a_wrapper_follows_from_its_language_model() -> None:
    wrapper = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3"}
    small, tiny = ({**wrapper, "text_config": {"model_type": kind}} for kind in ("mistral", "ministral3"))
    assert find_architecture(small, "") is not find_architecture(tiny, "")
    assert find_architecture(tiny, "").settings(tiny)["head_dim"] == 128
