"""Phi-1, 1.5 and 2: attention and MLP share a norm and run beside each other, and every matrix has a bias."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    LAYER_NORM,
    attention,
    biased,
    decoder_metadata,
    decoder_rules,
    linear,
    require_plain_heads,
    sizes,
    vector,
)
from quantkit.arch.rope import check_scaling, rope, rotated
from quantkit.gguf.kv import KV, u32
from quantkit.vocab.families import VocabularyRules

_LAST_NORM = "model.final_layernorm"


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "gelu_new")
    require(config, "qk_layernorm", False)
    require(config, "tie_word_embeddings", False)
    require_plain_heads(config)
    settings = rope(config)
    require(settings, "rope_theta", 10000.0)  # llama.cpp's converter writes none
    check_scaling(settings, ())
    return [
        *decoder_metadata("phi2", {**config, "head_dim": None}, norm=LAYER_NORM),
        u32("phi2.rope.dimension_count", rotated(config)),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    layer = [
        *biased("input_layernorm", "attn_norm", size.hidden),
        *attention(size, qkv_bias=True, output_bias=True, output="dense"),
        *linear("mlp.fc1", "ffn_up", size.inner, size.hidden, bias=True),
        *linear("mlp.fc2", "ffn_down", size.hidden, size.inner, bias=True),
    ]
    return [
        *decoder_rules(config, layer, vector(_LAST_NORM, "output_norm", size.hidden)),
        Rule(f"{_LAST_NORM}.bias", "output_norm.bias", (size.hidden,)),
        Rule("lm_head.bias", "output.bias", (size.vocabulary,)),
    ]


ARCHITECTURE = Architecture(
    "phi2", metadata, rules, vocabulary=VocabularyRules(adds_bos=False), defaults=CLASS_DEFAULTS["phi"]
)
