"""Mistral Small 3.1 and 3.2, the language model of a vision-language checkpoint: Mistral under another name."""

from __future__ import annotations

from quantkit.arch import llama, mistral
from quantkit.arch.base import Architecture, Config, head_dim, require, window_note
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.rope import YarnGraph
from quantkit.arch.rope_factors import rope_tensors
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require(config, "model_type", "mistral")  # Mistral 4 has another graph
    scalings = ("llama3", "linear", "yarn")
    return llama.llama_metadata("mistral3", {**config, "head_dim": head_dim(config)}, scalings, YarnGraph(betas=True))


ARCHITECTURE = Architecture(
    "mistral3",
    metadata,
    mistral.rules,
    rope_tensors,
    tokenizers=llama.TOKENIZERS,
    vocabulary=llama.VOCABULARY,
    defaults=CLASS_DEFAULTS["mistral"],
    notes=window_note,
)
