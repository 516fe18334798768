"""Seed-OSS: Llama with biases of q, k and v, in transformers' order of rows."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, head_dim, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_metadata, decoder_rules, gated_mlp, sizes, vector
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require(config, "attention_out_bias", False)
    require(config, "mlp_bias", False)
    config = {**config, "head_dim": head_dim(config)}
    return [*decoder_metadata("seed_oss", config), *rope_metadata("seed_oss", config, ("linear", "yarn"))]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    layer = [
        vector("input_layernorm", "attn_norm", size.hidden),
        *attention(size, qkv_bias=bool(config.get("attention_bias"))),
        vector("post_attention_layernorm", "post_attention_norm", size.hidden),
        *gated_mlp(size.hidden, size.inner),
    ]
    return decoder_rules(config, layer)


ARCHITECTURE = Architecture("seed_oss", metadata, rules, defaults=CLASS_DEFAULTS["seed_oss"])
