"""Qwen3.5 and 3.6 (dense), the language model: Qwen3-Next's layers with an MLP, and interleaved M-RoPE."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import gated_mlp, sizes
from quantkit.arch.gated_delta import apart
from quantkit.arch.mrope import plain_rope, sections
from quantkit.arch.mtp import QWEN
from quantkit.arch.qwen2 import TOKENIZERS
from quantkit.arch.qwen3_next import ROTATED, hybrid_metadata, hybrid_rules
from quantkit.arch.rope import rotated
from quantkit.gguf.kv import KV

# transformers' default.
SECTIONS = (11, 11, 10)


def metadata(config: Config) -> list[KV]:
    turns = sections("qwen35", config, rotated(plain_rope(config, ROTATED)), interleaved=True, default=SECTIONS)
    return [*hybrid_metadata("qwen35", config, dense=True), *turns]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return hybrid_rules(config, size, apart, gated_mlp(size.hidden, size.inner))


ARCHITECTURE = Architecture(
    "qwen35", metadata, rules, tokenizers=TOKENIZERS, defaults=CLASS_DEFAULTS["qwen3_5_text"], mtp=QWEN
)
