"""Falcon-H1: state-space heads beside attention in every layer, with multipliers that GGUF has in the matrices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.arch.base import Architecture, Compute, Config, Rule, head_dim, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_metadata, decoder_rules, gated_mlp, sizes, vector
from quantkit.arch.mamba2 import Mamba2, mamba2, mamba2_metadata, mamba2_rules, require_mamba2
from quantkit.arch.rope import rope_metadata
from quantkit.errors import ArchitectureError
from quantkit.gguf.header import EMBEDDING, OUTPUT
from quantkit.gguf.kv import KV, u32

_KEYS = {
    "heads": "mamba_n_heads",
    "head": "mamba_d_head",
    "groups": "mamba_n_groups",
    "state": "mamba_d_state",
    "kernel": "mamba_d_conv",
}
_IN_LAYER = re.compile(r"^blk\.\d+\.")
_EMBEDDING, _HEAD = "embedding_multiplier", "lm_head_multiplier"
# By GGUF name in a layer, the multipliers of the whole matrix, in the order in which they are applied.
_WHOLE = {
    "attn_q": ("attention_in_multiplier",),
    "attn_k": ("key_multiplier", "attention_in_multiplier"),
    "attn_v": ("attention_in_multiplier",),
    "attn_output": ("attention_out_multiplier",),
    "ssm_out": ("ssm_out_multiplier",),
}


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    for key in ("attention_bias", "mlp_bias", "projectors_bias"):
        require({key: bool(config.get(key))}, key, False)
    require_mamba2(config, conv_bias="mamba_conv_bias", biases=("mamba_proj_bias",))
    if config.get("mamba_rms_norm"):
        require(config, "mamba_norm_before_gate", False)
    if config.get("tie_word_embeddings"):  # one matrix, which can only have one of the two
        require(config, _HEAD, number(config, _EMBEDDING))
    return [
        *decoder_metadata("falcon-h1", {**config, "head_dim": head_dim(config)}),
        *rope_metadata("falcon-h1", config, ()),
        u32("falcon-h1.vocab_size", positive(config, "vocab_size")),
        *mamba2_metadata("falcon-h1", _mamba2(config)),
    ]


def _mamba2(config: Config) -> Mamba2:
    if config.get("mamba_d_ssm") is not None:
        return mamba2(config, _KEYS, positive(config, "mamba_d_ssm"))
    return mamba2(config, _KEYS, positive(config, "mamba_expand") * positive(config, "hidden_size"))


def rules(config: Config) -> list[Rule]:
    size, mamba = sizes(config), _mamba2(config)
    layer = [
        vector("input_layernorm", "attn_norm", size.hidden),
        *attention(size),
        *mamba2_rules("mamba", mamba, norm=bool(config.get("mamba_rms_norm"))),
        Rule("pre_ff_layernorm.weight", "ffn_norm", (size.hidden,)),  # llama.cpp looks for it without ".weight"
        *gated_mlp(size.hidden, size.inner, source="feed_forward"),
    ]
    found = decoder_rules(config, layer, vector("model.final_layernorm", "output_norm", size.hidden))
    computed = _computed(config, mamba)
    return [replace(rule, compute=computed.get(_IN_LAYER.sub("", rule.target), rule.compute)) for rule in found]


def _computed(config: Config, mamba: Mamba2) -> dict[str, Compute]:
    """What multiplies a matrix, by its GGUF name, without that of the layer."""
    gate, down = _numbers(config, "mlp_multipliers", 2)
    whole = {f"{name}.weight": [number(config, key) for key in keys] for name, keys in _WHOLE.items()}
    whole |= {"ffn_gate.weight": [gate], "ffn_down.weight": [down]}
    whole |= {EMBEDDING: [number(config, _EMBEDDING)], OUTPUT: [number(config, _HEAD)]}
    # Rows of the gate, the input, B, C and the steps of time.
    ends = np.cumsum([mamba.inner, mamba.inner, *[mamba.groups * mamba.state] * 2, mamba.heads])
    parts = np.repeat(np.array(_numbers(config, "ssm_multipliers", 5), dtype=np.float32), np.diff(ends, prepend=0))
    rows = np.full_like(parts, number(config, "ssm_in_multiplier"))
    return {name: _times(*factors) for name, factors in whole.items()} | {"ssm_in.weight": _by_row(rows, parts)}


def _numbers(config: Config, key: str, count: int) -> list[float]:
    """A list of numbers in the config; ones without it.

    Raises:
        ArchitectureError: it has another length.
    """
    given: Any = config.get(key)
    if given is None:
        return [1.0] * count
    if not isinstance(given, list) or len(given) != count:
        raise ArchitectureError(f"config.json: {key} is {str(given)[:60]}; expected a list of {count} numbers")
    return [number({key: one}, key) for one in given]


def _times(*factors: float) -> Compute:
    """Multiply by each number in turn."""
    return lambda values, start: _multiplied(values, [np.float32(factor) for factor in factors])


def _by_row(*factors: npt.NDArray[np.float32]) -> Compute:
    """Multiply each row by its number, in turn."""
    return lambda values, start: _multiplied(values, [one[start : start + len(values), None] for one in factors])


def _multiplied(values: npt.NDArray[Any], factors: Sequence[Any]) -> npt.NDArray[Any]:
    """The values times each factor, rounded to their own type after each, as llama.cpp's converter does."""
    for factor in factors:
        values = (values.astype(np.float32) * factor).astype(values.dtype)
    return values


ARCHITECTURE = Architecture("falcon-h1", metadata, rules, defaults=CLASS_DEFAULTS["falcon_h1"])
