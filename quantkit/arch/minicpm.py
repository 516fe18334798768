"""MiniCPM (1, 2 and 4): Llama with a scaled embedding, scaled layers and scaled logits; no class in transformers."""

from __future__ import annotations

import math

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, Generated, Rule, head_dim, layers, number, positive, require
from quantkit.arch.decoder import decoder_metadata, require_plain_heads
from quantkit.arch.longrope_context import stretched
from quantkit.arch.rope import rope, rope_base
from quantkit.arch.rope_factors import longrope_factors
from quantkit.gguf.kv import KV, f32, string

_ARCH = "minicpm"
# The model's own class, which ties embedding and head unless config.json says otherwise.
_DEFAULTS = {"tie_word_embeddings": True, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require_plain_heads(config)
    require(config, "num_experts")
    settings = rope(config)
    residual = number(config, "scale_depth", above=0) / math.sqrt(layers(config))
    return [
        *decoder_metadata(_ARCH, {**config, "head_dim": None}),
        *([string(f"{_ARCH}.rope.scaling.type", "longrope")] if stretched(config) else ()),
        f32(f"{_ARCH}.rope.freq_base", rope_base(settings)),
        f32(f"{_ARCH}.embedding_scale", number(config, "scale_emb", above=0)),
        f32(f"{_ARCH}.residual_scale", residual),
        f32(f"{_ARCH}.logit_scale", positive(config, "hidden_size") / number(config, "dim_model_base", above=0)),
    ]


def rules(config: Config) -> list[Rule]:
    return llama.rules({**config, "attention_bias": False, "mlp_bias": False})


def generated(config: Config) -> list[Generated]:
    return longrope_factors(rope(config), head_dim(config)) if stretched(config) else []


ARCHITECTURE = Architecture(
    _ARCH,
    metadata,
    rules,
    generated,
    tokenizers=("sentencepiece", "llama-hf"),
    defaults=_DEFAULTS,
)
