"""Phi-3, Phi-3.5 and Phi-4: q, k and v in one matrix, gate and up in another, LongRoPE."""

from __future__ import annotations

from typing import Any

from quantkit.arch.base import Architecture, Config, Generated, Rule, positive, require, window_note
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import decoder_metadata, decoder_rules, linear, pre_normed, require_plain_heads, sizes
from quantkit.arch.rope import check_scaling, longrope_metadata, rope, rope_base, rotated
from quantkit.arch.rope_factors import longrope_factors
from quantkit.gguf.kv import KV, f32, u32
from quantkit.vocab.families import VocabularyRules

_SCALING = "phi3.rope.scaling"


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require_plain_heads(config)
    settings = _rope(config)
    windowed = config.get("sliding_window") not in (None, 0)
    long = longrope_metadata(_SCALING, config, settings)
    return [
        *decoder_metadata("phi3", {**config, "head_dim": None}),
        *(long if _stretched(settings) else long[1:]),
        u32("phi3.rope.dimension_count", rotated(config)),
        f32("phi3.rope.freq_base", rope_base(settings)),
        # Written even without a window: llama.cpp would otherwise derive one from the context length.
        u32("phi3.attention.sliding_window", positive(config, "sliding_window") if windowed else 0),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    attention = [
        *linear("self_attn.qkv_proj", "attn_qkv", size.queries + 2 * size.keys, size.hidden),
        *linear("self_attn.o_proj", "attn_output", size.hidden, size.queries),
    ]
    mlp = [
        *linear("mlp.gate_up_proj", "ffn_up", 2 * size.inner, size.hidden),
        *linear("mlp.down_proj", "ffn_down", size.hidden, size.inner),
    ]
    return decoder_rules(config, pre_normed(size, attention, mlp))


def generated(config: Config) -> list[Generated]:
    settings = _rope(config)
    return longrope_factors(settings, rotated(config)) if _stretched(settings) else []


def _rope(config: Config) -> dict[str, Any]:
    """The rotary settings; early Phi-3 configs name LongRoPE "su" or "yarn"."""
    settings = rope(config)
    if settings.get("rope_type") in ("su", "yarn"):
        settings["rope_type"] = "longrope"
    check_scaling(settings, ("longrope",))
    return settings


def _stretched(settings: dict[str, Any]) -> bool:
    return settings.get("rope_type") == "longrope"


ARCHITECTURE = Architecture(
    "phi3",
    metadata,
    rules,
    generated,
    tokenizers=("sentencepiece", "llama-hf", "bpe"),
    vocabulary=VocabularyRules(trust_special_flag=True),
    defaults=CLASS_DEFAULTS["phi3"],
    notes=window_note,
)
