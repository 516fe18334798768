"""Command R, Command R+ and Aya: one norm for attention and MLP, which run beside each other, and scaled logits."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    LAYER_NORM,
    Sizes,
    attention,
    decoder_metadata,
    decoder_rules,
    gated_mlp,
    require_plain_heads,
    sizes,
    vector,
)
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.header import OUTPUT
from quantkit.gguf.kv import KV, f32, string

# From here on, llama.cpp expects norms of q and k, as Command R+ has them.
_LAYERS_WITH_NORMS = 64


def metadata(config: Config) -> list[KV]:
    normed = {"use_qk_norm": bool(config.get("use_qk_norm"))}
    require_plain_heads(config)
    require(normed, "use_qk_norm", layers(config) >= _LAYERS_WITH_NORMS)
    context = "model_max_length" if config.get("model_max_length") is not None else "max_position_embeddings"
    return cohere_metadata(
        "command-r", {**config, "head_dim": None, "max_position_embeddings": positive(config, context)}
    )


def cohere_metadata(arch: str, config: Config) -> list[KV]:
    """The entries that Command R and its successors have."""
    require(config, "hidden_act", "silu")
    require(config, "attention_bias", False)
    require(config, "tie_word_embeddings", True)
    return [
        *decoder_metadata(arch, config, norm=LAYER_NORM),
        *rope_metadata(arch, config, ()),
        f32(f"{arch}.logit_scale", number(config, "logit_scale", above=0)),
        string(f"{arch}.rope.scaling.type", "none"),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return cohere_rules(config, size, _norms(config, size))


def cohere_rules(config: Config, size: Sizes, norms: list[Rule]) -> list[Rule]:
    """The tensors, without a head: it is the embedding."""
    layer = [
        vector("input_layernorm", "attn_norm", size.hidden),
        *attention(size),
        *norms,
        *gated_mlp(size.hidden, size.inner),
    ]
    return [rule for rule in decoder_rules(config, layer) if rule.target != OUTPUT]


def _norms(config: Config, size: Sizes) -> list[Rule]:
    """Norms of q and k with weights of their own for each head."""
    if not config.get("use_qk_norm"):
        return []
    heads = {"q": size.queries // size.head, "k": size.keys // size.head}
    return [
        Rule(f"self_attn.{name}_norm.weight", f"attn_{name}_norm.weight", (count, size.head))
        for name, count in heads.items()
    ]


ARCHITECTURE = Architecture("command-r", metadata, rules, defaults=CLASS_DEFAULTS["cohere"])
