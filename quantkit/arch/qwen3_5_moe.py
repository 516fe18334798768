"""Qwen3.5-MoE and Qwen3.6-MoE, the language model: Qwen3.5 with Qwen3-Next's experts."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import sizes
from quantkit.arch.gated_delta import apart
from quantkit.arch.mrope import plain_rope, sections
from quantkit.arch.mtp import QWEN
from quantkit.arch.qwen2 import TOKENIZERS
from quantkit.arch.qwen3_5 import SECTIONS
from quantkit.arch.qwen3_next import (
    INNER,
    ROTATED,
    hybrid_metadata,
    hybrid_rules,
    shared_expert_metadata,
    shared_expert_rules,
)
from quantkit.arch.rope import rotated
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require(config, "mlp_only_layers", [])
    require(config, "norm_topk_prob", True)
    return [
        *hybrid_metadata("qwen35moe", config),
        *sections("qwen35moe", config, rotated(plain_rope(config, ROTATED)), interleaved=True, default=SECTIONS),
        *shared_expert_metadata("qwen35moe", config),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config, INNER)
    return hybrid_rules(config, size, apart, shared_expert_rules(config, size))


ARCHITECTURE = Architecture(
    "qwen35moe", metadata, rules, tokenizers=TOKENIZERS, defaults=CLASS_DEFAULTS["qwen3_5_moe_text"], mtp=QWEN
)
