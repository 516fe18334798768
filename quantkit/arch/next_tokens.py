"""The layer behind the others that predicts one more token (multi-token prediction), for speculative decoding.

transformers passes over it and does not save it, so a checkpoint after training usually lacks it; the config still
counts it, and llama.cpp reads a file with or without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.arch.base import Config, Rule, layers, positive, require
from quantkit.arch.decoder import in_layer, linear, vector
from quantkit.arch.mtp import GLM
from quantkit.gguf.kv import KV, u32

_COUNT = GLM.key


def next_token_layers(config: Config) -> int:
    """Their number.

    Raises:
        ArchitectureError: there are several, which llama.cpp does not run.
    """
    require(config, _COUNT, 0, 1)
    return int(config.get(_COUNT) or 0)


def next_token_metadata(arch: str, config: Config) -> list[KV]:
    """Their number, if the config has one."""
    count = next_token_layers(config)
    return [u32(f"{arch}.nextn_predict_layers", count)] if config.get(_COUNT) is not None else []


def next_token_rules(config: Config, layer: Iterable[Rule]) -> list[Rule]:
    """Their tensors, all of which the checkpoint may lack.

    Args:
        config: config.json.
        layer: the tensors that they have in common with other layers, with names relative to the layer.
    """
    hidden = positive(config, "hidden_size")
    shape = (positive(config, "vocab_size"), hidden)
    own = [
        *layer,
        *linear("eh_proj", "nextn.eh_proj", hidden, 2 * hidden),
        vector("enorm", "nextn.enorm", hidden),
        vector("hnorm", "nextn.hnorm", hidden),
        Rule("embed_tokens.weight", "nextn.embed_tokens.weight", shape),
        Rule("shared_head.head.weight", "nextn.shared_head_head.weight", shape),
        vector("shared_head.norm", "nextn.shared_head_norm", hidden),
    ]
    count, first = next_token_layers(config), layers(config)
    return [replace(in_layer(rule, first + i), optional=True) for i in range(count) for rule in own]
