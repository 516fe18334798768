"""Granite 3 (dense): Llama with four multipliers."""

from __future__ import annotations

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, number
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import require_plain_heads
from quantkit.gguf.kv import KV, f32

_MULTIPLIERS = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def metadata(config: Config) -> list[KV]:
    return granite_metadata("granite", config)


def granite_metadata(arch: str, config: Config) -> list[KV]:
    """Llama's entries, without the size of a head, and the multipliers."""
    require_plain_heads(config)
    return [
        *llama.llama_metadata(arch, {**config, "head_dim": None}, ("linear", "yarn")),
        *(f32(f"{arch}.{target}", number(config, key, above=0)) for key, target in _MULTIPLIERS.items()),
    ]


ARCHITECTURE = Architecture(
    "granite",
    metadata,
    llama.rules,
    tokenizers=llama.TOKENIZERS,
    vocabulary=llama.VOCABULARY,
    defaults=CLASS_DEFAULTS["granite"],
)
