"""Baichuan and Baichuan 2: Llama with q, k and v in one matrix, the 13B model with ALiBi; no class in transformers.

The output head of Baichuan 2 divides each row of its matrix by the row's length whenever it computes (``NormHead`` of
modeling_baichuan.py). llama.cpp's graph does not, and its converter writes the matrix as it is stored; here the file
gets the divided rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.arch.base import Architecture, Config, Rule, head_dim, number, positive, require
from quantkit.arch.decoder import (
    decoder_metadata,
    decoder_rules,
    gated_mlp,
    interleave_halves,
    linear,
    pre_normed,
    sizes,
)
from quantkit.gguf.header import OUTPUT
from quantkit.gguf.kv import KV, f32, string, u32

_ARCH = "baichuan"
# Of the models' own classes.
_DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}
# llama.cpp rotates q and k in a model of 32 layers, and has ALiBi in one of 40, whatever the file says.
_LAYERS = (32, 40)
# Rows of Baichuan 2's embedding; Baichuan's has 64000. The class has one name, and no setting tells the two apart.
_SECOND = 125696
# The least divisor, of torch.nn.functional.normalize.
_EPSILON = 1e-12


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require(config, "tie_word_embeddings", False)
    require(config, "rope_theta", 10000.0)
    require(config, "rope_scaling")
    require(config, "head_dim")
    require(config, "num_key_value_heads", config.get("num_attention_heads"))
    require(config, "num_hidden_layers", *_LAYERS)
    context = config.get("max_position_embeddings") or positive(config, "model_max_length")
    base = config.get("rope_theta") is not None
    entries = decoder_metadata(_ARCH, {**config, "max_position_embeddings": context})
    return [
        *(
            entry
            for entry in entries
            if entry.key != f"{_ARCH}.attention.head_count_kv" or "num_key_value_heads" in config
        ),
        string(f"{_ARCH}.tensor_data_layout", "Meta AI original pth"),
        u32(f"{_ARCH}.rope.dimension_count", head_dim(config)),
        *([f32(f"{_ARCH}.rope.freq_base", number(config, "rope_theta"))] if base else ()),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    heads = [
        Rule(
            "self_attn.W_pack.weight",
            f"attn_{name}.weight",
            (size.hidden, size.hidden),
            None if name == "v" else lambda rows: interleave_halves(rows, size.head),
            size.head,
            source_shape=(3 * size.hidden, size.hidden),
            row_order=(range(place * size.hidden, (place + 1) * size.hidden),),
        )
        for place, name in enumerate("qkv")
    ]
    output = linear("self_attn.o_proj", "attn_output", size.hidden, size.hidden)
    found = decoder_rules(config, pre_normed(size, [*heads, *output], gated_mlp(size.hidden, size.inner)))
    if not normalizes(config):
        return found
    return [replace(rule, compute=normalized, bends=True) if rule.target == OUTPUT else rule for rule in found]


def normalizes(config: Config) -> bool:
    """Whether the model is a Baichuan 2, by the size of its vocabulary (added tokens make it larger)."""
    rows = config.get("vocab_size")
    return isinstance(rows, int) and rows >= _SECOND


def normalized(values: npt.NDArray[Any], start: int) -> npt.NDArray[np.float32]:
    """Each row divided by its length, as ``torch.nn.functional.normalize`` does it: shape [rows, columns]."""
    rows = values.astype(np.float64)
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    found: npt.NDArray[np.float32] = (rows / np.maximum(lengths, _EPSILON)).astype(np.float32)
    return found


def converter_lacks(config: Config) -> str:
    """What the converter does not do with a Baichuan 2."""
    return "divide the rows of Baichuan 2's output head by their lengths" if normalizes(config) else ""


ARCHITECTURE = Architecture(
    _ARCH, metadata, rules, tokenizers=("sentencepiece",), defaults=_DEFAULTS, converter_lacks=converter_lacks
)
