"""Hunyuan (dense): norms of q and k after they are rotated, and a rotary base that was stretched once and for all."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, head_dim, number, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    Sizes,
    attention,
    decoder_metadata,
    decoder_rules,
    gated_mlp,
    pre_normed,
    sizes,
    vector,
)
from quantkit.arch.rope import rope, rope_base, rope_metadata
from quantkit.gguf.kv import KV, f32, string, u32
from quantkit.vocab.families import VocabularyRules

_ARCH = "hunyuan-dense"
_WHERE = "config.json: rope_scaling"
# What the models were trained for, in place of the number in config.json.
_CONTEXT = 256 * 1024


def metadata(config: Config) -> list[KV]:
    return hunyuan_metadata(_ARCH, {**config, "head_dim": head_dim(config)})


def hunyuan_metadata(arch: str, config: Config) -> list[KV]:
    """The entries of both families, under the GGUF architecture *arch*."""
    require(config, "hidden_act", "silu")
    require(config, "attention_bias", False)
    settings = rope(config)
    if settings.get("rope_type") != "dynamic" or not settings.get("alpha"):
        return [*decoder_metadata(arch, config), *rope_metadata(arch, config, ("linear", "yarn"))]
    require(settings, "rope_theta", 10000.0, where=_WHERE)
    require(config, "max_position_embeddings", 32 * 1024, _CONTEXT)
    sized = decoder_metadata(arch, {**config, "max_position_embeddings": _CONTEXT})
    return [*sized, *_stretched(arch, settings, config)]


def _stretched(arch: str, settings: Config, config: Config) -> list[KV]:
    """NTK-aware scaling with a fixed ``alpha``: another base, and no scaling beyond that."""
    size, alpha = head_dim(config), number(settings, "alpha", _WHERE, above=0)
    return [
        f32(f"{arch}.rope.freq_base", rope_base(settings) * alpha ** (size / (size - 2))),
        string(f"{arch}.rope.scaling.type", "none"),
        f32(f"{arch}.rope.scaling.factor", 1.0),
        u32(f"{arch}.rope.scaling.original_context_length", _CONTEXT),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return decoder_rules(config, pre_normed(size, hunyuan_attention(size), gated_mlp(size.hidden, size.inner)))


def hunyuan_attention(size: Sizes) -> list[Rule]:
    """The matrices of attention, and norms of q and k."""
    return [
        *attention(size),
        vector("self_attn.query_layernorm", "attn_q_norm", size.head),
        vector("self_attn.key_layernorm", "attn_k_norm", size.head),
    ]


ARCHITECTURE = Architecture(
    _ARCH,
    metadata,
    rules,
    vocabulary=VocabularyRules(eos_setting="eod_token_id"),
    defaults=CLASS_DEFAULTS["hunyuan_v1_dense"],
)
