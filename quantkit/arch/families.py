"""The supported model families, one file each.

An :class:`~quantkit.arch.base.Architecture` says which GGUF metadata a config becomes, which GGUF tensor each tensor of
the checkpoint becomes (with the shape that it must have), and how its rows are laid out. To add a family, write its
file and add its name to ``FAMILIES``. A file is imported when its family is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quantkit.checkpoint.language_part import language_part
from quantkit.checkpoint.name_tables import CHAT_HINT
from quantkit.errors import ArchitectureError

if TYPE_CHECKING:
    from quantkit.arch.base import Architecture


# The family's file, by the name in "architectures" of config.json.
FAMILIES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Mistral3ForConditionalGeneration": "mistral3",
    "Ministral3ForCausalLM": "ministral3",
    "Llama4ForCausalLM": "llama4",
    "Llama4ForConditionalGeneration": "llama4",
    "GlmForCausalLM": "glm",
    "ChatGLMModel": "chatglm",
    "ChatGLMForConditionalGeneration": "chatglm",
    "Glm4ForCausalLM": "glm4",
    "Glm4MoeForCausalLM": "glm4_moe",
    "Glm4vForConditionalGeneration": "glm4v",
    "Glm4vMoeForConditionalGeneration": "glm4v_moe",
    "SeedOssForCausalLM": "seed_oss",
    "Ernie4_5ForCausalLM": "ernie4_5",
    "Ernie4_5_MoeForCausalLM": "ernie4_5_moe",
    "HunYuanDenseV1ForCausalLM": "hunyuan_dense",
    "HunYuanMoEV1ForCausalLM": "hunyuan_moe",
    "Exaone4ForCausalLM": "exaone4",
    "CohereForCausalLM": "cohere",
    "Cohere2ForCausalLM": "cohere2",
    "StableLmForCausalLM": "stablelm",
    "InternLM3ForCausalLM": "internlm3",
    "DeepseekV2ForCausalLM": "deepseek2",
    "DeepseekV3ForCausalLM": "deepseek3",
    "Glm4MoeLiteForCausalLM": "glm4_moe_lite",
    "MiniCPM3ForCausalLM": "minicpm3",
    "MiniCPMForCausalLM": "minicpm",
    "InternLM2ForCausalLM": "internlm2",
    "BaichuanForCausalLM": "baichuan",
    "BaiChuanForCausalLM": "baichuan",
    "MixtralForCausalLM": "mixtral",
    "QWenLMHeadModel": "qwen",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Qwen2VLForConditionalGeneration": "qwen2vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2vl",
    "Qwen3VLForConditionalGeneration": "qwen3vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3vl_moe",
    "Qwen3NextForCausalLM": "qwen3_next",
    "Qwen3_5ForCausalLM": "qwen3_5",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForCausalLM": "qwen3_5_moe",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5_moe",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Gemma3nForCausalLM": "gemma3n",
    "Gemma3nForConditionalGeneration": "gemma3n",
    "Gemma4ForCausalLM": "gemma4",
    "Gemma4ForConditionalGeneration": "gemma4",
    "Gemma4UnifiedForConditionalGeneration": "gemma4_unified",
    "Phi3ForCausalLM": "phi3",
    "GraniteForCausalLM": "granite",
    "SmolLM3ForCausalLM": "smollm3",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo3",
    "OlmoeForCausalLM": "olmoe",
    "ArceeForCausalLM": "arcee",
    "Starcoder2ForCausalLM": "starcoder2",
    "PhiForCausalLM": "phi",
    "Lfm2ForCausalLM": "lfm2",
    "Lfm2MoeForCausalLM": "lfm2_moe",
    "GptOssForCausalLM": "gpt_oss",
    "FalconH1ForCausalLM": "falcon_h1",
    "NemotronForCausalLM": "nemotron",
    "NemotronHForCausalLM": "nemotron_h",
    "GraniteMoeForCausalLM": "granite_moe",
    "GraniteMoeSharedForCausalLM": "granite_moe_shared",
    "GraniteMoeHybridForCausalLM": "granite_hybrid",
}

# The class of AutoModelForCausalLM, by model_type: it counts where "architectures" names none, or a wrapper.
BY_MODEL_TYPE: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
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
    "minicpm3": "MiniCPM3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3n_text": "Gemma3nForCausalLM",
    "gemma4_text": "Gemma4ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "arcee": "ArceeForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "phi": "PhiForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "granitemoeshared": "GraniteMoeSharedForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
}
# The class of the language model inside of a wrapper that has several, by the wrapper and text_config's model_type.
INSIDE: Mapping[tuple[str, str], str] = {
    ("Mistral3ForConditionalGeneration", "ministral3"): "Ministral3ForCausalLM",
    ("LlavaForConditionalGeneration", "mistral"): "MistralForCausalLM",
    ("SmolVLMForConditionalGeneration", "llama"): "LlamaForCausalLM",
    ("Idefics3ForConditionalGeneration", "llama"): "LlamaForCausalLM",
    ("InternVLForConditionalGeneration", "qwen2"): "Qwen2ForCausalLM",
    ("InternVLForConditionalGeneration", "qwen3"): "Qwen3ForCausalLM",
    ("InternVLForConditionalGeneration", "qwen3_moe"): "Qwen3MoeForCausalLM",
    ("InternVLForConditionalGeneration", "llama"): "LlamaForCausalLM",
    ("InternVLChatModel", "qwen2"): "Qwen2ForCausalLM",
    ("InternVLChatModel", "qwen3"): "Qwen3ForCausalLM",
    ("InternVLChatModel", "qwen3_moe"): "Qwen3MoeForCausalLM",
    ("InternVLChatModel", "llama"): "LlamaForCausalLM",
}
# Classes of trainers around a model: FSDP's before its name, PEFT's and TRL's instead of it.
_SHARDED = "FSDP"
WRAPPERS = ("PeftModel", "PeftModelForCausalLM", "AutoModelForCausalLMWithValueHead")

# What classes with these endings are, in place of a model that writes text.
NOT_CHAT: Mapping[str, str] = {
    "ForSequenceClassification": "a classifier or reward model",
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a model that marks answers in a text",
    "RewardModel": "a reward model",
    "CriticModel": "the critic of PPO training",
}


# Classes that llama.cpp's converter takes and whose models it then computes otherwise: what is different.
_PHI_MOE = "it has RMS norms instead of layer norms, and weighs experts by a softmax instead of the sparse mixer"
MISCOMPUTED: Mapping[str, str] = {"PhiMoEForCausalLM": _PHI_MOE, "PhimoeForCausalLM": _PHI_MOE}


class _Architectures(Mapping[str, "Architecture"]):
    """The families by the same names, each imported on first use."""

    def __getitem__(self, name: str) -> Architecture:
        architecture: Architecture = importlib.import_module(f"quantkit.arch.{FAMILIES[name]}").ARCHITECTURE
        return architecture

    def __iter__(self) -> Iterator[str]:
        return iter(FAMILIES)

    def __len__(self) -> int:
        return len(FAMILIES)


ARCHITECTURES: Mapping[str, Architecture] = _Architectures()


def is_supported(config: Mapping[str, Any]) -> bool:
    """Whether :func:`find_architecture` knows the architecture of this config."""
    return _family(config) in FAMILIES


def saved_class(config: Mapping[str, Any]) -> str | None:
    """The class that a config names in ``architectures``; None if it names none."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def _named(config: Mapping[str, Any]) -> str | None:
    """The class of the model itself: the one that the config names, without wrappers, or the one of its model_type."""
    name, kind = saved_class(config), config.get("model_type")
    own = BY_MODEL_TYPE.get(kind) if isinstance(kind, str) else None
    decoder = own and own.replace("ForCausalLM", "Model")  # saved by AutoModel, without its head
    if name is None or name in WRAPPERS or name == decoder:
        return own or name
    return name.removeprefix(_SHARDED) if name.removeprefix(_SHARDED) in FAMILIES else name


def _family(config: Mapping[str, Any]) -> str | None:
    """The class whose family converts the config: the named one, or that of the language model inside of it."""
    name, kind = _named(config), language_part(config).get("model_type")
    return INSIDE.get((name, kind), name) if name is not None and isinstance(kind, str) else name


def class_notes(config: Mapping[str, Any]) -> list[str]:
    """A note if the config names no class, or another one than that of the model itself."""
    saved, named = saved_class(config), _named(config)
    if saved == named:
        return []
    said = f"names {saved}" if saved else "names no class in architectures"
    return [f"config.json {said}: the model is taken for {named}" + ("" if saved else ", by its model_type")]


def refuse_miscomputed(config: Mapping[str, Any], where: str) -> None:
    """Refuse a model of which llama.cpp makes another one.

    Raises:
        ArchitectureError: the class is in :data:`MISCOMPUTED`.
    """
    if (what := MISCOMPUTED.get(name := str(_family(config)))) is not None:
        raise ArchitectureError(
            f"{where}: {name} is not supported: llama.cpp computes another model ({what})",
            hint="run it with transformers or vLLM; docs/families.md has the measured difference",
        )


def refuse_half_converted(config: Mapping[str, Any], where: str) -> None:
    """Refuse to give a model to llama.cpp's converter that leaves out a part which quantkit has.

    Raises:
        ArchitectureError: the model's family says so.
    """
    name = _family(config) or ""
    if name in FAMILIES and (what := ARCHITECTURES[name].converter_lacks(language_part(config))):
        raise ArchitectureError(
            f"{where}: llama.cpp's converter does not {what}, so that it writes another model",
            hint="convert it without --via-llama-cpp",
        )


def find_architecture(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture that a config names.

    Raises:
        ArchitectureError: the config names none, or one that is not supported; the hint lists the supported ones.
    """
    refuse_miscomputed(config, where)
    name = _family(config)
    supported = ", ".join(sorted({*FAMILIES, *(wrapper for wrapper, _ in INSIDE)}))
    if name is None:
        raise ArchitectureError(f"{where}: architectures is missing", hint=f"supported architectures: {supported}")
    if (kind := next((NOT_CHAT[end] for end in NOT_CHAT if name.endswith(end)), None)) is not None:
        raise ArchitectureError(f"{where}: {name} is {kind}", hint=CHAT_HINT)
    if name not in FAMILIES:
        raise ArchitectureError(
            f"{where}: architecture {name!r} is not supported",
            hint="try llama.cpp's own converter: pass --via-llama-cpp PATH with a llama.cpp checkout; architectures "
            f"that quantkit supports: {supported}",
        )
    architecture = ARCHITECTURES[name]
    return architecture.variant(architecture.settings(config)) or architecture
