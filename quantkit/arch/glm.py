"""GLM-4 and GLM-Edge as transformers has them: half of each head is rotated, gate and up share a matrix."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    attention,
    decoder_metadata,
    decoder_rules,
    linear,
    pre_normed,
    require_plain_heads,
    sizes,
)
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV
from quantkit.vocab.families import VocabularyRules

_END = "<|endoftext|>"


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require_plain_heads(config)
    return [
        *decoder_metadata("chatglm", {**config, "head_dim": None}),
        *rope_metadata("chatglm", config, (), partial=True),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return decoder_rules(config, pre_normed(size, glm_attention(config), fused_mlp(size.hidden, size.inner)))


def glm_attention(config: Config) -> list[Rule]:
    """q, k and v with biases where the config says so, and o without."""
    return attention(sizes(config), qkv_bias=bool(config.get("attention_bias", False)))


def fused_mlp(hidden: int, inner: int) -> list[Rule]:
    """A gated MLP whose gate and up matrices are one."""
    return [
        *linear("mlp.gate_up_proj", "ffn_up", 2 * inner, hidden),
        *linear("mlp.down_proj", "ffn_down", hidden, inner),
    ]


ARCHITECTURE = Architecture(
    "chatglm",
    metadata,
    rules,
    vocabulary=VocabularyRules(adds_bos=False, named={"eos": _END, "eot": "<|user|>", "unk": _END}),
    defaults=CLASS_DEFAULTS["glm"],
)
