"""Settings that a config.json leaves out: the same metadata and shapes as from the config of transformers' class."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from quantkit.arch.base import Architecture
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.families import ARCHITECTURES
from quantkit.errors import ArchitectureError
from tests.support.checkpoints import KINDS, Kind

# Of transformers' class for the language model: by it, the name in "architectures".
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "seed_oss": "SeedOssForCausalLM",
    "ernie4_5": "Ernie4_5ForCausalLM",
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "hunyuan_v1_dense": "HunYuanDenseV1ForCausalLM",
    "hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "glm4_moe_lite": "Glm4MoeLiteForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "minicpm3": "MiniCPM3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen2_vl_text": "Qwen2VLForConditionalGeneration",
    "qwen3_vl_text": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe_text": "Qwen3VLMoeForConditionalGeneration",
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3n_text": "Gemma3nForCausalLM",
    "gemma4_text": "Gemma4ForCausalLM",
    "gemma4_unified_text": "Gemma4UnifiedForConditionalGeneration",
    "phi3": "Phi3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "glm4v_text": "Glm4vForConditionalGeneration",
    "glm4v_moe_text": "Glm4vMoeForConditionalGeneration",
    "olmoe": "OlmoeForCausalLM",
    "arcee": "ArceeForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "phi": "PhiForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "granitemoeshared": "GraniteMoeSharedForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
}
# Settings that the classes have among the rotary ones.
ROTARY = ("rope_theta", "partial_rotary_factor")
NEVER_LEFT_OUT = {"architectures", "model_type", "transformers_version"}


class Reads(dict[str, Any]):
    """A config that remembers which settings were looked up."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def built(architecture: Architecture, config: Mapping[str, Any]) -> Any:
    """Everything that an architecture makes of a config, or its refusal."""
    try:
        metadata = [(entry.key, entry.value) for entry in architecture.metadata(config)]
        rules = [
            (rule.source, rule.target, rule.shape, rule.unit, rule.optional) for rule in architecture.rules(config)
        ]
        return metadata, rules, len(architecture.generated(config))
    except ArchitectureError as error:
        return f"refused: {error}"


def completed(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config as transformers' class completes it; None if the class does not take it."""
    from transformers import AutoConfig

    values = {key: value for key, value in config.items() if key != "model_type"}
    try:
        return {
            **AutoConfig.for_model(config["model_type"], **values).to_dict(),
            "architectures": config["architectures"],
        }
    except Exception:  # its own errors have many types
        return None


def flat(kind: Kind) -> dict[str, Any]:
    sizes = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8,
        "num_hidden_layers": 2, "num_key_value_heads": 4, "hidden_act": "silu",
    }  # fmt: skip
    return {key: value for key, value in {**sizes, **kind.config}.items() if key not in kind.without}


def kinds() -> Iterator[tuple[str, str]]:
    """Per class the first kind of checkpoint with it."""
    for model_type, name in CLASSES.items():
        found = [key for key, kind in KINDS.items() if kind.config.get("architectures") == [name]]
        if found:
            yield model_type, min(found, key=lambda key: bool(KINDS[key].around))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def test_every_family_has_its_table() -> None:
    tables = {id(table): name for name, table in CLASS_DEFAULTS.items()}
    without = {name for name, architecture in ARCHITECTURES.items() if id(architecture.defaults) not in tables}
    # These have no class in transformers.
    chinese = {"ChatGLMModel", "ChatGLMForConditionalGeneration", "BaichuanForCausalLM", "BaiChuanForCausalLM"}
    assert without == {"QWenLMHeadModel", "MiniCPMForCausalLM", "InternLM2ForCausalLM", *chinese}
    assert {tables[id(ARCHITECTURES[name].defaults)] for name in CLASSES.values()} == CLASS_DEFAULTS.keys()
    assert dict(kinds()).keys() == CLASSES.keys()


@pytest.mark.parametrize("model_type", CLASSES)
def test_the_table_is_what_the_class_says(model_type: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    values = config.to_dict()
    table = dict(CLASS_DEFAULTS[model_type])
    if "rope_parameters" in table and "rope_theta" in table:  # a base outside of them counts
        table["rope_parameters"] = {**table["rope_parameters"], "rope_theta": table["rope_theta"]}
    for key, value in table.items():
        said = values[key] if key in values else getattr(config, key, None)
        if key in ROTARY:
            said = config.rope_parameters
            said = said.get("full_attention", said)[key]
        if key == "intermediate_size" and isinstance(said, list):  # one for each layer
            (said,) = {*said}
        assert (key, said) == (key, value)


@pytest.mark.parametrize(("model_type", "kind"), list(kinds()))
def test_every_setting_that_is_read_may_be_left_out(model_type: str, kind: str) -> None:
    """With the result of transformers: the config that its class makes of what is left."""
    config = flat(KINDS[kind])
    architecture = ARCHITECTURES[config["architectures"][0]]
    reads = Reads(architecture.settings(config))
    built(architecture, reads)
    reads.asked |= config.keys() & CLASS_DEFAULTS[model_type].keys()  # behind a copy of the config
    compared: list[str] = []
    for key in sorted((reads.asked & config.keys()) - NEVER_LEFT_OUT):
        left = {name: value for name, value in config.items() if name != key}
        theirs = completed(left)
        if theirs is None:
            continue
        ours = built(architecture, architecture.settings(left))
        expected = built(architecture, architecture.settings(theirs))
        compared.append(key)
        if isinstance(expected, str):  # such as heads that do not divide: the texts name what was set
            assert isinstance(ours, str), (key, expected)
        else:
            assert ours == expected, key
    # With MiniCPM 3's number of heads, the class takes no model of this hidden size.
    assert {"hidden_size", *(["num_attention_heads"] if model_type != "minicpm3" else [])} <= {*compared}
    assert "max_position_embeddings" in compared or model_type == "nemotron_h"  # without positions
    assert {"rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"} & {*compared}


def test_a_config_with_nothing_but_its_class() -> None:
    """It is the class's default model."""
    for model_type, name in CLASSES.items():
        architecture = ARCHITECTURES[name]
        config = {"architectures": [name], "model_type": model_type}
        theirs = completed(config)
        assert theirs is not None
        ours = built(architecture, architecture.settings(config))
        assert ours == built(architecture, architecture.settings(theirs)), name


def test_experts_under_both_names() -> None:
    """transformers 5 writes num_local_experts for Qwen3-MoE, and reads num_experts for Mixtral."""
    for name, key, other in (
        ("Qwen3MoeForCausalLM", "num_experts", "num_local_experts"),
        ("MixtralForCausalLM", "num_local_experts", "num_experts"),
    ):
        settings = ARCHITECTURES[name].settings({"architectures": [name], other: 4})
        assert settings[key] == 4
        assert ARCHITECTURES[name].settings({"architectures": [name], key: 5, other: 4})[key] == 5


def test_the_user_hears_of_what_no_weight_proves() -> None:
    llama = ARCHITECTURES["LlamaForCausalLM"]
    assert llama.filled_in({"rms_norm_eps": 1e-5}) == [
        "config.json leaves out max_position_embeddings 2048: transformers' default for this class"
    ]
    assert llama.filled_in({"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}) == []
    gemma = ARCHITECTURES["Gemma3ForConditionalGeneration"]
    assert gemma.filled_in({"rms_norm_eps": 1e-5, "text_config": {"hidden_size": 64}}) == [
        "config.json leaves out max_position_embeddings 131072 and rms_norm_eps 1e-06: transformers' default for this "
        "class"
    ]
