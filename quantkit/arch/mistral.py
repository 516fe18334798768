"""Mistral 7B, Nemo, Small and related models: Llama's graph in llama.cpp."""

from __future__ import annotations

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, Rule, window_note
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.rope_factors import rope_tensors


def rules(config: Config) -> list[Rule]:
    return llama.rules({**config, "attention_bias": False, "mlp_bias": False})


ARCHITECTURE = Architecture(
    "llama",
    llama.metadata,
    rules,
    rope_tensors,
    tokenizers=llama.TOKENIZERS,
    vocabulary=llama.VOCABULARY,
    defaults=CLASS_DEFAULTS["mistral"],
    notes=window_note,
)
