"""What transformers' config classes fill in for settings that a config.json leaves out.

A config.json may leave out whatever has its class's default value: hand-written configs, and those of vision-language
models, do. transformers is not imported for it, which would take seconds: ``tests/unit/test_class_defaults.py`` holds
this table, and every setting that a family reads, to its classes.

Not in the table: what a class derives from other settings (``head_dim`` from the hidden size, one of ``layer_types``
per layer), a rotary base of 10000, which is everybody's default, and ids of special tokens, for which the tokenizer's
files count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantkit.arch.further_defaults import FURTHER
from quantkit.arch.gemma_defaults import GEMMA
from quantkit.arch.hybrid_defaults import HYBRID
from quantkit.arch.routed_defaults import ROUTED

_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
_MISTRAL = {
    **_LLAMA,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
_QWEN2 = {
    **_LLAMA,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
_GEMMA2 = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}

CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    **ROUTED,
    **FURTHER,
    **GEMMA,
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "ministral3": {
        **{key: value for key, value in _MISTRAL.items() if key != "sliding_window"},
        "vocab_size": 131072,
        "num_hidden_layers": 34,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "type": "yarn",
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "max_position_embeddings": 262144,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "mixtral": {
        **{key: value for key, value in _MISTRAL.items() if key != "sliding_window"},
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen2": _QWEN2,
    "qwen2_moe": {
        **_QWEN2,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
    },
    "qwen3": {**_QWEN2, "head_dim": 128},
    "qwen2_vl_text": {
        **_QWEN2,
        "vocab_size": 152064,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
    },
    "qwen3_vl_text": {**_QWEN2, "head_dim": 128, "max_position_embeddings": 128000},
    "qwen3_vl_moe_text": {
        **_QWEN2,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 128000,
        "moe_intermediate_size": 1408,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "tie_word_embeddings": True,
    },
    "qwen3_moe": {
        **_QWEN2,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
    "gemma": {
        **{
            key: value
            for key, value in _GEMMA2.items()
            if not key.endswith(("softcapping", "scalar", "window", "activation"))
        },
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    "gemma2": _GEMMA2,
    "gemma3_text": {
        **{key: value for key, value in _GEMMA2.items() if not key.endswith("softcapping")},
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_theta": 1000000.0,
    },
    "phi3": {
        **_LLAMA,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
    "granite": {
        **_LLAMA,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
    },
    "smollm3": {
        **_LLAMA,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 2000000.0,
        "tie_word_embeddings": True,
    },
    "olmo2": {**_LLAMA, "vocab_size": 50304, "rms_norm_eps": 1e-5},
    "olmo3": {
        **_LLAMA,
        "vocab_size": 50304,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "sliding_window": 4096,
    },
    **HYBRID,
}
"""By ``model_type``: settings with the class's values."""

# Another name under which transformers takes, and version 5 writes, a setting.
_OTHER_NAMES = {"num_local_experts": "num_experts", "num_experts": "num_local_experts"}

# Settings that no tensor's shape depends on, so that only a note can show that one was filled in.
_UNPROVEN = (
    "max_position_embeddings",
    "rms_norm_eps",
    "norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_epsilon",
)
# Settings that the names and shapes of tensors follow from.
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_key_value_heads", "num_experts", "num_local_experts", "moe_intermediate_size"),
    "shared_expert_intermediate_size",
)


def with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """*config* with the defaults that it leaves out; a setting under its other name is not left out.

    Args:
        config: a flat config.json.
        defaults: of its class.
    """
    named = {
        _OTHER_NAMES[key]: config[key]
        for key in config
        if key in _OTHER_NAMES and _OTHER_NAMES[key] in defaults and _OTHER_NAMES[key] not in config
    }
    return {**defaults, **named, **config}


def sizes_left_out(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The sizes that the config leaves out, for the message about a tensor that does not fit; empty for none.

    Args:
        given: the language model's own config.
        defaults: of its class.
    """
    filled = [
        f"{key} {defaults[key]}"
        for key in _SIZES
        if key in defaults and key not in given and _OTHER_NAMES.get(key) not in given
    ]
    return f"config.json leaves out {', '.join(filled)}, the default of this class" if filled else ""


def filled_in_notes(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    """A note about what no weight proves and the config leaves out.

    Args:
        given: the language model's own config.
        defaults: of its class.
    """
    filled = [f"{key} {defaults[key]}" for key in _UNPROVEN if key in defaults and key not in given]
    if filled:
        yield f"config.json leaves out {' and '.join(filled)}: transformers' default for this class"
