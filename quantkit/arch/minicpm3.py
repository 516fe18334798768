"""MiniCPM 3: latent attention that is expanded again, and scales that llama.cpp's graph has as constants."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Generated, Rule, head_dim, kv_heads, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import decoder_metadata, decoder_rules, gated_mlp, linear, vector
from quantkit.arch.latent_attention import LatentSizes, as_one_head, compression_rules, latent_sizes, query_rules
from quantkit.arch.longrope_context import stretched
from quantkit.arch.rope import rope
from quantkit.arch.rope_factors import longrope_factors
from quantkit.gguf.kv import KV, u32

_ARCH = "minicpm3"


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require(config, "attention_bias", False)
    for key, constant in (("scale_emb", 12), ("scale_depth", 1.4), ("dim_model_base", 256)):
        require(config, key, constant)
    size = _sizes(config)
    require(config, "v_head_dim", size.value)
    require(config, "num_key_value_heads", size.heads)
    require(rope(config), "rope_theta", 10000.0)
    stretched(config)
    return [
        *decoder_metadata(_ARCH, {**as_one_head(config), "num_key_value_heads": kv_heads(config)}),
        u32(f"{_ARCH}.vocab_size", positive(config, "vocab_size")),
        u32(f"{_ARCH}.attention.q_lora_rank", positive(config, "q_lora_rank")),
        u32(f"{_ARCH}.attention.kv_lora_rank", size.latent),
        u32(f"{_ARCH}.attention.key_length", size.plain + size.rotary),
        u32(f"{_ARCH}.rope.dimension_count", size.rotary),
    ]


def _sizes(config: Config) -> LatentSizes:
    """The sizes, with the only one that llama.cpp has for heads of v, and transformers by default."""
    return latent_sizes({**config, "v_head_dim": head_dim({**config, "head_dim": None})})


def rules(config: Config) -> list[Rule]:
    size = _sizes(config)
    layer = [
        vector("input_layernorm", "attn_norm", size.hidden),
        *query_rules(size),
        *compression_rules(size),
        *linear("self_attn.kv_b_proj", "attn_kv_b", size.heads * (size.plain + size.value), size.latent),
        *linear("self_attn.o_proj", "attn_output", size.hidden, size.heads * size.value),
        vector("post_attention_layernorm", "ffn_norm", size.hidden),
        *gated_mlp(size.hidden, positive(config, "intermediate_size")),
    ]
    return decoder_rules(config, layer)


def generated(config: Config) -> list[Generated]:
    return longrope_factors(rope(config), _sizes(config).rotary) if stretched(config) else []


ARCHITECTURE = Architecture(
    _ARCH,
    metadata,
    rules,
    generated,
    tokenizers=("sentencepiece", "llama-hf"),
    defaults=CLASS_DEFAULTS["minicpm3"],
    takes_lora=False,
)
