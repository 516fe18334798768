"""EXAONE 4: norms after attention and MLP, and in the 32B model windows, with which alone positions count."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    attention,
    decoder_metadata,
    decoder_rules,
    head_norms,
    post_normed,
    require_plain_heads,
    sizes,
)
from quantkit.arch.layer_types import FULL, WINDOW, layer_types
from quantkit.arch.rope import rope_metadata
from quantkit.arch.rope_factors import rope_tensors
from quantkit.gguf.kv import KV, KVType, array, u32

_PERIOD, _LAYERS_OF_32B = 4, 64


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require_plain_heads(config)
    return [
        *decoder_metadata("exaone4", config),
        *rope_metadata("exaone4", config, ("llama3", "linear", "yarn")),
        u32("exaone4.vocab_size", positive(config, "vocab_size")),
        *_windows(config),
    ]


def _windows(config: Config) -> list[KV]:
    """The window and the layers that have it, which llama.cpp reads for the 32B model alone."""
    count = layers(config)
    if config.get("sliding_window") is None:
        require(config, "layer_types", [FULL] * count)
        return []
    require(
        {"num_hidden_layers with a sliding_window": count}, "num_hidden_layers with a sliding_window", _LAYERS_OF_32B
    )
    pattern = config.get("sliding_window_pattern")
    require({"sliding_window_pattern": pattern}, "sliding_window_pattern", _PERIOD, "LLLG")
    usual = [WINDOW if (i + 1) % _PERIOD else FULL for i in range(count)]
    kinds = layer_types(config, (FULL, WINDOW), usual)
    return [
        u32("exaone4.attention.sliding_window", positive(config, "sliding_window")),
        array("exaone4.attention.sliding_window_pattern", [kind == WINDOW for kind in kinds], KVType.BOOL),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return decoder_rules(config, post_normed(size, [*attention(size), *head_norms(size.head)]))


ARCHITECTURE = Architecture("exaone4", metadata, rules, rope_tensors, defaults=CLASS_DEFAULTS["exaone4"])
