"""ERNIE 4.5 (dense): neighboring elements of a head are rotated in transformers too."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, head_dim, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_metadata, decoder_rules, gated_mlp, pre_normed, sizes
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV
from quantkit.vocab.families import VocabularyRules

TOKENIZERS = ("sentencepiece", "llama-hf", "bpe")
VOCABULARY = VocabularyRules(writes_add_space_prefix=True)


def metadata(config: Config) -> list[KV]:
    return ernie_metadata("ernie4_5", {**config, "head_dim": head_dim(config)})


def ernie_metadata(arch: str, config: Config) -> list[KV]:
    """The entries that both kinds of ERNIE have."""
    require(config, "hidden_act", "silu")
    require(config, "use_bias", False)
    return [*decoder_metadata(arch, config), *rope_metadata(arch, config, ("linear", "yarn"))]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return decoder_rules(config, pre_normed(size, attention(size), gated_mlp(size.hidden, size.inner)))


ARCHITECTURE = Architecture(
    "ernie4_5",
    metadata,
    rules,
    tokenizers=TOKENIZERS,
    vocabulary=VOCABULARY,
    defaults=CLASS_DEFAULTS["ernie4_5"],
)
