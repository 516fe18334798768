"""OLMo 2: norms after attention and MLP, and over all heads of q and k together."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    attention,
    decoder_metadata,
    decoder_rules,
    head_norms,
    post_normed,
    require_plain_heads,
    sizes,
)
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require(config, "attention_bias", False)
    require(config, "tie_word_embeddings", False)
    require_plain_heads(config)
    return [*decoder_metadata("olmo2", config), *rope_metadata("olmo2", config, ("linear", "yarn"))]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return decoder_rules(config, post_normed(size, [*attention(size), *head_norms(size.queries, size.keys)]))


ARCHITECTURE = Architecture("olmo2", metadata, rules, defaults=CLASS_DEFAULTS["olmo2"])
