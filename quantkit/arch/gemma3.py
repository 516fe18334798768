"""Gemma 3, the text model: five layers with a sliding window per layer without, with different rotary bases."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_metadata, decoder_rules, head_norms, sizes
from quantkit.arch.gemma_layers import TOKENIZERS, add_ones, four_norms, require_gemma
from quantkit.arch.rope import check_scaling, rope, rope_base, rope_metadata
from quantkit.gguf.kv import KV, f32, u32

_PERIOD, _LAYERS_OF_27B = 6, 62


def metadata(config: Config) -> list[KV]:
    require_gemma(config, _PERIOD, _LAYERS_OF_27B)
    require(config, "attn_logit_softcapping")
    cap = config.get("final_logit_softcapping")
    return [
        *decoder_metadata("gemma3", config),
        *rope_metadata("gemma3", {**config, "rope_parameters": rope(config, "full_attention")}, ("linear",)),
        f32("gemma3.rope.freq_base_swa", local_base(config)),
        u32("gemma3.attention.sliding_window", positive(config, "sliding_window")),
        *([f32("gemma3.final_logit_softcapping", number(config, "final_logit_softcapping", above=0))] if cap else []),
    ]


def local_base(config: Config) -> float:
    """The rotary base of the layers with a sliding window, which are never scaled."""
    nested = config.get("rope_parameters") or {}
    local = nested.get("sliding_attention") or {} if isinstance(nested, dict) else {}
    check_scaling(rope({"rope_parameters": local}), ())
    return rope_base({"rope_theta": config.get("rope_local_base_freq") or 10000.0, **local})


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return add_ones(decoder_rules(config, four_norms(size, [*attention(size), *head_norms(size.head)])))


ARCHITECTURE = Architecture(
    "gemma3",
    metadata,
    rules,
    tokenizers=TOKENIZERS,
    defaults=CLASS_DEFAULTS["gemma3_text"],
)
