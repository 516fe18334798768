"""Qwen3-MoE (Qwen3-30B-A3B, 235B-A22B)."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_rules, head_norms, pre_normed, sizes
from quantkit.arch.experts import GATED, expert_metadata, expert_rules, refuse_partly_sparse
from quantkit.arch.qwen2 import TOKENIZERS, qwen_metadata
from quantkit.gguf.kv import KV, u32


def metadata(config: Config) -> list[KV]:
    return sparse_metadata("qwen3moe", config)


def sparse_metadata(arch: str, config: Config) -> list[KV]:
    """The entries under the GGUF architecture *arch*."""
    refuse_partly_sparse(config, renormalized=True)
    require(config, "attention_bias", False)
    return [
        *qwen_metadata(arch, config),
        *expert_metadata(arch, config, "num_experts"),
        u32(f"{arch}.expert_feed_forward_length", positive(config, "moe_intermediate_size")),
    ]


def rules(config: Config) -> list[Rule]:
    size, count, inner = sizes(config), positive(config, "num_experts"), positive(config, "moe_intermediate_size")
    heads = [*attention(size), *head_norms(size.head)]
    return decoder_rules(config, pre_normed(size, heads, expert_rules("mlp", count, GATED, size.hidden, inner)))


ARCHITECTURE = Architecture("qwen3moe", metadata, rules, tokenizers=TOKENIZERS, defaults=CLASS_DEFAULTS["qwen3_moe"])
