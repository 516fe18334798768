"""StarCoder 2: norms and matrices with biases, an MLP of GELU without a gate."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require, window_note
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
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "gelu_pytorch_tanh")
    require(config, "use_bias", True)
    require_plain_heads(config)
    norm = ("norm_epsilon", "attention.layer_norm_epsilon")
    return [
        *decoder_metadata("starcoder2", {**config, "head_dim": None}, norm=norm),
        *rope_metadata("starcoder2", config, ("linear", "yarn")),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    layer = [
        *biased("input_layernorm", "attn_norm", size.hidden),
        *attention(size, qkv_bias=True, output_bias=True),
        *biased("post_attention_layernorm", "ffn_norm", size.hidden),
        *linear("mlp.c_fc", "ffn_up", size.inner, size.hidden, bias=True),
        *linear("mlp.c_proj", "ffn_down", size.hidden, size.inner, bias=True),
    ]
    return [*decoder_rules(config, layer), Rule("model.norm.bias", "output_norm.bias", (size.hidden,))]


ARCHITECTURE = Architecture("starcoder2", metadata, rules, defaults=CLASS_DEFAULTS["starcoder2"], notes=window_note)
