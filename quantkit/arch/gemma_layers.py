"""Common parts of the Gemmas: norms stored minus one, four of them per layer in Gemma 2 and 3; sliding windows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.arch.base import Config, Rule, head_dim, layers, positive, require
from quantkit.arch.decoder import Sizes, gated_mlp, vector

_GELU = "gelu_pytorch_tanh"
TOKENIZERS = ("sentencepiece", "llama-hf", "bpe")


def require_gemma(config: Config, period: int, large: int) -> None:
    """Refuse settings that llama.cpp's graphs for Gemma do not support.

    Args:
        config: config.json.
        period: every *period*-th layer attends to the whole context.
        large: the number of layers of the 27B model, the only one that scales attention by the hidden size.
    """
    require(config, "hidden_activation", _GELU)
    require(config, "attention_bias", False)
    kinds = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers(config))]
    require(config, "layer_types", kinds)
    require(config, "sliding_window_pattern", period)
    scalar = head_dim(config)
    if layers(config) == large:
        scalar = positive(config, "hidden_size") // positive(config, "num_attention_heads")
    require(config, "query_pre_attn_scalar", scalar)


def four_norms(size: Sizes, attention: Iterable[Rule]) -> list[Rule]:
    """A layer with norms before and after attention, and before and after the MLP."""
    return [
        vector("input_layernorm", "attn_norm", size.hidden),
        *attention,
        vector("post_attention_layernorm", "post_attention_norm", size.hidden),
        vector("pre_feedforward_layernorm", "ffn_norm", size.hidden),
        *gated_mlp(size.hidden, size.inner),
        vector("post_feedforward_layernorm", "post_ffw_norm", size.hidden),
    ]


def add_ones(rules: Iterable[Rule]) -> list[Rule]:
    """The rules, with one added to the norms: Gemma multiplies by one plus the weight, and GGUF stores the sum."""
    return [replace(rule, arrange=plus_one) if rule.target.endswith("norm.weight") else rule for rule in rules]


def plus_one(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One more, for norms that are stored minus one."""
    more: npt.NDArray[Any] = weights + np.ones_like(weights)  # in their own type, as llama.cpp's converter does
    return more
