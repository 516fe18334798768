"""The part of :data:`quantkit.arch.class_defaults.CLASS_DEFAULTS` for Gemma 3n and 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GEMMA4 = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "sliding_window": 512,
}

GEMMA: Mapping[str, Mapping[str, Any]] = {
    "gemma4_text": {**_GEMMA4, "vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 256},
    "gemma4_unified_text": {**_GEMMA4, "max_position_embeddings": 262144, "sliding_window": 1024},
}
