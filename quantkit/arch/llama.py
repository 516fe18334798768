"""Llama 2, 3, 3.1, 3.2 and 3.3, and models with the same architecture."""

from __future__ import annotations

from collections.abc import Collection

from quantkit.arch.base import Architecture, Config, Rule, head_dim, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_metadata, decoder_rules, gated_mlp, pre_normed, sizes
from quantkit.arch.rope import PLAIN_YARN, YarnGraph, rope_metadata
from quantkit.arch.rope_factors import rope_tensors
from quantkit.gguf.kv import KV, u32
from quantkit.vocab.families import VocabularyRules

SCALINGS = ("llama3", "linear", "yarn", "longrope")
TOKENIZERS = ("sentencepiece", "llama-hf", "bpe")
# By size: small Granite and SmolLM models, and Code Llama, which ends an infill with its own token.
VOCABULARY = VocabularyRules(writes_add_space_prefix=True, no_bos_vocab_size=49152, special={32016: {"eot": 32010}})


def metadata(config: Config) -> list[KV]:
    """Metadata that always includes the head size, because transformers' config class fills it in."""
    return llama_metadata("llama", {**config, "head_dim": head_dim(config)}, SCALINGS)


def llama_metadata(arch: str, config: Config, scalings: Collection[str], yarn: YarnGraph = PLAIN_YARN) -> list[KV]:
    """The entries of all families whose graph in llama.cpp is derived from Llama's."""
    require(config, "hidden_act", "silu")
    return [
        *decoder_metadata(arch, config),
        *rope_metadata(arch, config, scalings, yarn),
        u32(f"{arch}.vocab_size", positive(config, "vocab_size")),
        u32(f"{arch}.rope.dimension_count", head_dim(config)),
    ]


def rules(config: Config) -> list[Rule]:
    size, bias = sizes(config), bool(config.get("attention_bias", False))
    heads = attention(size, qkv_bias=bias, output_bias=bias, interleaved=True)
    mlp = gated_mlp(size.hidden, size.inner, bias=bool(config.get("mlp_bias", False)))
    return decoder_rules(config, pre_normed(size, heads, mlp))


ARCHITECTURE = Architecture(
    "llama", metadata, rules, rope_tensors, TOKENIZERS, VOCABULARY, defaults=CLASS_DEFAULTS["llama"]
)
