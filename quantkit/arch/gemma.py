"""Gemma, the first (2B and 7B), and CodeGemma: Llama with wider heads, a gated GELU and a scaled embedding."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_metadata, decoder_rules, gated_mlp, pre_normed, sizes
from quantkit.arch.gemma_layers import TOKENIZERS, add_ones
from quantkit.arch.rope import DEFAULT_ROPE_THETA, check_scaling, rope, rope_base
from quantkit.gguf.header import OUTPUT
from quantkit.gguf.kv import KV
from quantkit.vocab.families import VocabularyRules

_GELU = "gelu_pytorch_tanh"
# transformers takes "gelu", which the first configs have, for the approximation with tanh.
_ACTIVATIONS = {"hidden_act": ("gelu", _GELU), "hidden_activation": (_GELU,)}
_END_OF_TURN = 107


def metadata(config: Config) -> list[KV]:
    for key, names in _ACTIVATIONS.items():
        require(config, key, *names)
    require(config, "attention_bias", False)
    require(config, "tie_word_embeddings", True)
    settings = rope(config)
    check_scaling(settings, ())
    require(settings, "partial_rotary_factor", 1)
    require({"rope_theta": rope_base(settings)}, "rope_theta", DEFAULT_ROPE_THETA)  # GGUF has no key for it
    return decoder_metadata("gemma", config)


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    tensors = decoder_rules(config, pre_normed(size, attention(size), gated_mlp(size.hidden, size.inner)))
    return add_ones(rule for rule in tensors if rule.target != OUTPUT)


ARCHITECTURE = Architecture(
    "gemma",
    metadata,
    rules,
    tokenizers=TOKENIZERS,
    vocabulary=VocabularyRules(eot=_END_OF_TURN),
    defaults=CLASS_DEFAULTS["gemma"],
)
