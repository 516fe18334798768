"""Nemotron and Minitron: norms with biases and of one plus the weight, an MLP of squared ReLU without a gate."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, head_dim, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    attention,
    biased,
    decoder_metadata,
    decoder_rules,
    linear,
    require_plain_heads,
    sizes,
)
from quantkit.arch.gemma_layers import add_ones
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV, f32, string, u32
from quantkit.vocab.families import VocabularyRules

_EPSILON = "norm_eps"


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "relu2")
    require(config, "tie_word_embeddings", False)
    require_plain_heads(config)
    sized = {**config, "head_dim": head_dim(config)}
    rotary = rope_metadata("nemotron", config, ("linear",), partial=True)
    scaled = any(entry.key.endswith(".scaling.type") for entry in rotary)
    return [
        # llama.cpp's converter writes the number under both names; the graph reads the second.
        *decoder_metadata("nemotron", sized, norm=(_EPSILON, "attention.layer_norm_rms_epsilon")),
        f32("nemotron.attention.layer_norm_epsilon", number(config, _EPSILON)),
        u32("nemotron.vocab_size", positive(config, "vocab_size")),
        *rotary,
        *(() if scaled else (string("nemotron.rope.scaling.type", "none"),)),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    bias, inner_bias = (bool(config.get(key, False)) for key in ("attention_bias", "mlp_bias"))
    layer = [
        *biased("input_layernorm", "attn_norm", size.hidden),
        *attention(size, qkv_bias=bias, output_bias=bias),
        *biased("post_attention_layernorm", "ffn_norm", size.hidden),
        *linear("mlp.up_proj", "ffn_up", size.inner, size.hidden, bias=inner_bias),
        *linear("mlp.down_proj", "ffn_down", size.hidden, size.inner, bias=inner_bias),
    ]
    return add_ones([*decoder_rules(config, layer), Rule("model.norm.bias", "output_norm.bias", (size.hidden,))])


ARCHITECTURE = Architecture(
    "nemotron",
    metadata,
    rules,
    tokenizers=("sentencepiece",),
    vocabulary=VocabularyRules(ids={"pad": 0, "unk": 1}),
    defaults=CLASS_DEFAULTS["nemotron"],
)
