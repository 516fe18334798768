"""Command R7B and Command A: Command R with windows in three of four layers, which alone rotate q and k."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, head_dim, layers, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.cohere import cohere_metadata, cohere_rules
from quantkit.arch.decoder import require_plain_heads, sizes
from quantkit.arch.layer_types import FULL, WINDOW
from quantkit.arch.rope import rotated
from quantkit.gguf.kv import KV, u32

_PERIOD = 4


def metadata(config: Config) -> list[KV]:
    require(config, "layer_types", [WINDOW if (i + 1) % _PERIOD else FULL for i in range(layers(config))])
    require(config, "sliding_window_pattern", _PERIOD)
    require(config, "rotary_pct", 1.0)
    require_plain_heads(config)
    return [
        *cohere_metadata("cohere2", {**config, "head_dim": head_dim(config)}),
        u32("cohere2.attention.sliding_window", positive(config, "sliding_window")),
        u32("cohere2.vocab_size", positive(config, "vocab_size")),
        u32("cohere2.rope.dimension_count", rotated(config)),
    ]


def rules(config: Config) -> list[Rule]:
    return cohere_rules(config, sizes(config), [])


ARCHITECTURE = Architecture("cohere2", metadata, rules, defaults=CLASS_DEFAULTS["cohere2"])
