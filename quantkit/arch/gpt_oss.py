"""gpt-oss: attention with sinks, a sliding window in every other layer, YaRN; experts with biases in every layer.

A checkpoint has the experts of a layer as two tensors, each matrix transposed, in which the columns of gate and up
alternate.
"""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import Sizes, attention, decoder_metadata, decoder_rules, linear, sizes, vector
from quantkit.arch.experts import expert_metadata, transposed_experts
from quantkit.arch.layer_types import FULL, WINDOW, layer_types
from quantkit.arch.rope import YarnGraph, rope, rope_metadata
from quantkit.gguf.kv import KV, u32

_ARCH, _EXPERTS, _COUNT = "gpt-oss", "mlp.experts", "num_local_experts"


def metadata(config: Config) -> list[KV]:
    _check(config)
    return [
        *decoder_metadata(_ARCH, config),
        *rope_metadata(_ARCH, config, ("linear", "yarn"), YarnGraph(rounded=False)),
        *expert_metadata(_ARCH, config, _COUNT),
        u32(f"{_ARCH}.attention.sliding_window", positive(config, "sliding_window")),
        u32(f"{_ARCH}.expert_feed_forward_length", positive(config, "intermediate_size")),
    ]


def _check(config: Config) -> None:
    """Refuse what llama.cpp's graph does not compute: its constants and the order of the layers are fixed."""
    require(config, "attention_bias", True)
    require(config, "tie_word_embeddings", False)
    require(config, "swiglu_alpha", 1.702)
    require(config, "swiglu_limit", 7.0)
    usual = tuple(FULL if i % 2 else WINDOW for i in range(layers(config)))
    require({"layer_types": layer_types(config, (WINDOW, FULL), usual)}, "layer_types", usual)


def rules(config: Config) -> list[Rule]:
    size, count = sizes(config), positive(config, _COUNT)
    return decoder_rules(
        config,
        [
            vector("input_layernorm", "attn_norm", size.hidden),
            *attention(size, qkv_bias=True, output_bias=True),
            Rule("self_attn.sinks", "attn_sinks.weight", (positive(config, "num_attention_heads"),)),
            vector("post_attention_layernorm", "post_attention_norm", size.hidden),
            *linear("mlp.router", "ffn_gate_inp", count, size.hidden, bias=True),
            *_experts(size, count),
        ],
    )


def _experts(size: Sizes, count: int) -> list[Rule]:
    hidden, inner = size.hidden, size.inner
    return [
        rule
        for kind, first in (("gate", 0), ("up", 1))
        for rule in (
            transposed_experts(
                f"{_EXPERTS}.gate_up_proj",
                f"ffn_{kind}_exps.weight",
                (count, inner, hidden),
                stored=2 * inner,
                which=range(first, 2 * inner, 2),
            ),
            Rule(
                f"{_EXPERTS}.gate_up_proj_bias",
                f"ffn_{kind}_exps.bias",
                (count, inner),
                source_shape=(count, 2 * inner),
                column_order=(range(first, 2 * inner, 2),),
            ),
        )
    ] + [
        transposed_experts(f"{_EXPERTS}.down_proj", "ffn_down_exps.weight", (count, hidden, inner)),
        Rule(f"{_EXPERTS}.down_proj_bias", "ffn_down_exps.bias", (count, hidden)),
    ]


def notes(config: Config) -> list[str]:
    """llama.cpp rounds YaRN's limits, which the released models do not."""
    settings = rope(config)
    if settings.get("rope_type") != "yarn" or settings.get("truncate", True):
        return []
    return [
        "rope_scaling has truncate false: llama.cpp rounds the dimensions where YaRN begins and ends, so a few "
        "frequencies differ a little from the original model, as in every GGUF of it"
    ]


ARCHITECTURE = Architecture(_ARCH, metadata, rules, defaults=CLASS_DEFAULTS["gpt_oss"], notes=notes)
