"""Qwen1.5, Qwen2 and Qwen2.5 (dense), CodeQwen1.5; and the parts that all later Qwens share."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    attention,
    decoder_metadata,
    decoder_rules,
    gated_mlp,
    pre_normed,
    require_plain_heads,
    sizes,
)
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV

TOKENIZERS = ("sentencepiece", "bpe")


def metadata(config: Config) -> list[KV]:
    require_plain_heads(config)
    return qwen_metadata("qwen2", config)


def qwen_metadata(arch: str, config: Config) -> list[KV]:
    """The entries of Qwen2 and its successors.

    Args:
        arch: the GGUF architecture.
        config: config.json.

    Raises:
        ArchitectureError: a sliding window or a rope scaling that llama.cpp does not support for them.
    """
    require(config, "hidden_act", "silu")
    hint = "to let the model attend to its whole context, set use_sliding_window to false in config.json"
    require(config, "use_sliding_window", False, hint=hint)
    return [*decoder_metadata(arch, config), *rope_metadata(arch, config, ("linear", "yarn"))]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    mlp = gated_mlp(size.hidden, size.inner)
    return decoder_rules(config, pre_normed(size, attention(size, qkv_bias=True), mlp))


ARCHITECTURE = Architecture("qwen2", metadata, rules, tokenizers=TOKENIZERS, defaults=CLASS_DEFAULTS["qwen2"])
