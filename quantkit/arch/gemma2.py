"""Gemma 2: capped logits, a sliding window in every other layer, tied embeddings."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_metadata, decoder_rules, sizes
from quantkit.arch.gemma_layers import TOKENIZERS, add_ones, four_norms, require_gemma
from quantkit.arch.rope import DEFAULT_ROPE_THETA, check_scaling, rope, rope_base
from quantkit.gguf.header import OUTPUT
from quantkit.gguf.kv import KV, f32, u32

_PERIOD, _LAYERS_OF_27B = 2, 46


def metadata(config: Config) -> list[KV]:
    require_gemma(config, _PERIOD, _LAYERS_OF_27B)
    require(config, "tie_word_embeddings", True)
    settings = rope(config)
    check_scaling(settings, ())
    require(settings, "partial_rotary_factor", 1)
    require({"rope_theta": rope_base(settings)}, "rope_theta", DEFAULT_ROPE_THETA)  # GGUF has no key for it
    return [
        *decoder_metadata("gemma2", config),
        f32("gemma2.attn_logit_softcapping", number(config, "attn_logit_softcapping", above=0)),
        f32("gemma2.final_logit_softcapping", number(config, "final_logit_softcapping", above=0)),
        u32("gemma2.attention.sliding_window", positive(config, "sliding_window")),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    tensors = decoder_rules(config, four_norms(size, attention(size)))
    return add_ones(rule for rule in tensors if rule.target != OUTPUT)


ARCHITECTURE = Architecture(
    "gemma2",
    metadata,
    rules,
    tokenizers=TOKENIZERS,
    defaults=CLASS_DEFAULTS["gemma2"],
)
