"""StableLM: norms with biases, a part of each head is rotated, and in some models attention and MLP share a norm."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    LAYER_NORM,
    attention,
    biased,
    decoder_metadata,
    decoder_rules,
    gated_mlp,
    require_plain_heads,
    sizes,
)
from quantkit.arch.rope import check_scaling, rope, rotated
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, boolean, u32


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require(config, "tie_word_embeddings", False)
    require_plain_heads(config)
    settings = rope(config)
    require(settings, "rope_theta", 10000.0)  # llama.cpp's converter writes none
    check_scaling(settings, ())
    if config.get("qk_layernorm"):
        raise ArchitectureError(
            "config.json: qk_layernorm, norms of single heads as in StableLM 2 12B, is not supported by quantkit",
            hint="try llama.cpp's own converter: pass --via-llama-cpp PATH with a llama.cpp checkout",
        )
    return [
        *decoder_metadata("stablelm", {**config, "head_dim": None}, norm=LAYER_NORM),
        u32("stablelm.rope.dimension_count", rotated(config)),
        boolean("stablelm.use_parallel_residual", bool(config.get("use_parallel_residual"))),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    layer = [
        *biased("input_layernorm", "attn_norm", size.hidden),
        *attention(size, qkv_bias=bool(config.get("use_qkv_bias"))),
        *(() if config.get("use_parallel_residual") else biased("post_attention_layernorm", "ffn_norm", size.hidden)),
        *gated_mlp(size.hidden, size.inner),
    ]
    return [*decoder_rules(config, layer), Rule("model.norm.bias", "output_norm.bias", (size.hidden,))]


ARCHITECTURE = Architecture("stablelm", metadata, rules, defaults=CLASS_DEFAULTS["stablelm"])
