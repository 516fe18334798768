"""OLMo 2: norms after attention and MLP, and over all heads of q and k together."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    attention,
    decoder_metadata,
    decoder_rules,
    gated_mlp,
    head_norms,
    require_plain_heads,
    sizes,
    vector,
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
    layer = [
        *attention(size),
        *head_norms(size.queries, size.keys),
        vector("post_attention_layernorm", "post_attention_norm", size.hidden),
        *gated_mlp(size.hidden, size.inner),
        vector("post_feedforward_layernorm", "post_ffw_norm", size.hidden),
    ]
    return decoder_rules(config, layer)


ARCHITECTURE = Architecture("olmo2", metadata, rules, defaults=CLASS_DEFAULTS["olmo2"])
