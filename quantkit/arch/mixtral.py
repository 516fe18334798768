"""Mixtral 8x7B and 8x22B: in llama.cpp, Llama with experts."""

from __future__ import annotations

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, Rule, positive, window_note
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_rules, pre_normed, sizes
from quantkit.arch.experts import expert_metadata, expert_rules
from quantkit.arch.rope_factors import rope_tensors
from quantkit.gguf.kv import KV

_EXPERT = {"gate": "w1", "down": "w2", "up": "w3"}


def metadata(config: Config) -> list[KV]:
    return [
        *llama.llama_metadata("llama", config, llama.SCALINGS),
        *expert_metadata("llama", config, "num_local_experts"),
    ]


def rules(config: Config) -> list[Rule]:
    size, count = sizes(config), positive(config, "num_local_experts")
    experts = expert_rules("block_sparse_moe", count, _EXPERT, size.hidden, size.inner)
    return decoder_rules(config, pre_normed(size, attention(size, interleaved=True), experts))


ARCHITECTURE = Architecture(
    "llama",
    metadata,
    rules,
    rope_tensors,
    tokenizers=llama.TOKENIZERS,
    vocabulary=llama.VOCABULARY,
    defaults=CLASS_DEFAULTS["mixtral"],
    notes=window_note,
)
