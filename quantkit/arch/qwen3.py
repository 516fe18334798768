"""Qwen3 (dense): norms of q and k, no biases."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_rules, gated_mlp, head_norms, pre_normed, sizes
from quantkit.arch.qwen2 import TOKENIZERS, qwen_metadata
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require(config, "attention_bias", False)
    return qwen_metadata("qwen3", config)


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    heads = [*attention(size), *head_norms(size.head)]
    return decoder_rules(config, pre_normed(size, heads, gated_mlp(size.hidden, size.inner)))


ARCHITECTURE = Architecture("qwen3", metadata, rules, tokenizers=TOKENIZERS, defaults=CLASS_DEFAULTS["qwen3"])
