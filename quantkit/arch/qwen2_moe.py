"""Qwen1.5-MoE and Qwen2-MoE: as well as routed experts, one expert that all tokens share."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    attention,
    decoder_rules,
    gated_mlp,
    linear,
    pre_normed,
    require_plain_heads,
    sizes,
)
from quantkit.arch.experts import GATED, expert_metadata, expert_rules, refuse_partly_sparse
from quantkit.arch.qwen2 import TOKENIZERS, qwen_metadata
from quantkit.gguf.kv import KV, u32


def metadata(config: Config) -> list[KV]:
    refuse_partly_sparse(config, renormalized=False)
    require(config, "tie_word_embeddings", False)
    require_plain_heads(config)
    return [
        *qwen_metadata("qwen2moe", config),
        *expert_metadata("qwen2moe", config, "num_experts"),
        u32("qwen2moe.expert_feed_forward_length", positive(config, "moe_intermediate_size")),
        u32("qwen2moe.expert_shared_feed_forward_length", positive(config, "shared_expert_intermediate_size")),
    ]


def rules(config: Config) -> list[Rule]:
    size, count, inner = sizes(config), positive(config, "num_experts"), positive(config, "moe_intermediate_size")
    shared = positive(config, "shared_expert_intermediate_size")
    heads = attention(size, qkv_bias=bool(config.get("qkv_bias", True)))
    mlp = [
        *expert_rules("mlp", count, GATED, size.hidden, inner),
        *linear("mlp.shared_expert_gate", "ffn_gate_inp_shexp", 1, size.hidden),
        *gated_mlp(size.hidden, shared, source="mlp.shared_expert", suffix="_shexp"),
    ]
    return decoder_rules(config, pre_normed(size, heads, mlp))


ARCHITECTURE = Architecture("qwen2moe", metadata, rules, tokenizers=TOKENIZERS, defaults=CLASS_DEFAULTS["qwen2_moe"])
