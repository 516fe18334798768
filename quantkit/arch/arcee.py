"""Arcee's AFM: Llama with an MLP of squared ReLU without a gate."""

from __future__ import annotations

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, Rule, head_dim, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_rules, linear, pre_normed, sizes
from quantkit.arch.rope_factors import rope_tensors
from quantkit.gguf.kv import KV

# Llama's without LongRoPE, whose factors the graph does not read.
_SCALINGS = ("llama3", "linear", "yarn")


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "relu2")
    require(config, "attention_bias", False)
    require(config, "mlp_bias", False)
    return llama.llama_metadata("arcee", {**config, "hidden_act": "silu", "head_dim": head_dim(config)}, _SCALINGS)


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    mlp = [
        *linear("mlp.up_proj", "ffn_up", size.inner, size.hidden),
        *linear("mlp.down_proj", "ffn_down", size.hidden, size.inner),
    ]
    return decoder_rules(config, pre_normed(size, attention(size, interleaved=True), mlp))


ARCHITECTURE = Architecture(
    "arcee",
    metadata,
    rules,
    rope_tensors,
    llama.TOKENIZERS,
    llama.VOCABULARY,
    defaults=CLASS_DEFAULTS["arcee"],
)
