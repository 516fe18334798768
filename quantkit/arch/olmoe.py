"""OLMoE: experts in every layer, whose weights do not add up to 1, and norms over all heads of q and k together."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, kv_heads, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    attention,
    decoder_metadata,
    decoder_rules,
    head_norms,
    pre_normed,
    require_plain_heads,
    sizes,
)
from quantkit.arch.experts import GATED, expert_metadata, expert_rules
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    for key in ("attention_bias", "tie_word_embeddings", "norm_topk_prob"):
        require(config, key, False)
    require(config, "clip_qkv")
    require({"num_key_value_heads": kv_heads(config)}, "num_key_value_heads", config.get("num_attention_heads"))
    require_plain_heads(config)
    return [
        *decoder_metadata("olmoe", {**config, "head_dim": None}),
        *rope_metadata("olmoe", config, ("linear", "yarn")),
        *expert_metadata("olmoe", config, "num_experts"),
    ]


def rules(config: Config) -> list[Rule]:
    size, count = sizes(config), positive(config, "num_experts")
    heads = [*attention(size), *head_norms(size.queries, size.keys)]
    return decoder_rules(config, pre_normed(size, heads, expert_rules("mlp", count, GATED, size.hidden, size.inner)))


ARCHITECTURE = Architecture("olmoe", metadata, rules, defaults=CLASS_DEFAULTS["olmoe"])
