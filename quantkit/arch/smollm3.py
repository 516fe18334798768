"""SmolLM3: Llama with NoPE (no rotary embedding) in every fourth layer."""

from __future__ import annotations

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, layers, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.gguf.kv import KV

_STEP = 4  # of llama.cpp's graph: layers 3, 7, 11, ... have no rotary embedding


def metadata(config: Config) -> list[KV]:
    require(config, "attention_bias", False)
    require(config, "mlp_bias", False)
    require(config, "use_sliding_window", False)
    require(config, "no_rope_layer_interval", _STEP)
    require(config, "no_rope_layers", [int((i + 1) % _STEP != 0) for i in range(layers(config))])
    return llama.llama_metadata("smollm3", config, ("linear", "yarn"))


ARCHITECTURE = Architecture(
    "smollm3",
    metadata,
    llama.rules,
    tokenizers=llama.TOKENIZERS,
    vocabulary=llama.VOCABULARY,
    defaults=CLASS_DEFAULTS["smollm3"],
)
