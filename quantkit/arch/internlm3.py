"""InternLM 3: Llama, whose context grows with a longer text."""

from __future__ import annotations

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, positive
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.rope import rope
from quantkit.arch.rope_factors import rope_tensors
from quantkit.gguf.kv import KV
from quantkit.vocab.families import VocabularyRules


def metadata(config: Config) -> list[KV]:
    return llama.metadata(within_context(config))


def within_context(config: Config) -> Config:
    """The config without the scaling that only begins beyond its context."""
    settings = rope(config)
    if settings.get("rope_type") != "dynamic":
        return config
    plain = {key: value for key, value in settings.items() if key == "rope_theta"}
    return {**config, "rope_scaling": None, "rope_parameters": plain}


def notes(config: Config) -> list[str]:
    """A note about the scaling that llama.cpp does not have."""
    if rope(config).get("rope_type") != "dynamic":
        return []
    context = positive(config, "max_position_embeddings")
    return [f"beyond {context} tokens the model stretches its positions, llama.cpp does not: keep to that context"]


ARCHITECTURE = Architecture(
    "llama",
    metadata,
    llama.rules,
    lambda config: rope_tensors(within_context(config)),
    tokenizers=("sentencepiece", "llama-hf"),
    vocabulary=VocabularyRules(writes_add_space_prefix=True, named_if_present={"eos": "<|im_end|>"}),
    defaults=CLASS_DEFAULTS["internlm3"],
    notes=notes,
)
