"""Tensors of layers for multi-token prediction, which transformers does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def mtp_shapes(settings: Mapping[str, Any], saved: Callable[[Mapping[str, Any]], Shapes]) -> Shapes:
    """The tensors of one layer.

    Args:
        settings: of the model.
        saved: settings to the tensors of a whole model without it.
    """
    return _behind(settings, saved) if "num_nextn_predict_layers" in settings else _beside(settings, saved)


def _beside(settings: Mapping[str, Any], saved: Callable[[Mapping[str, Any]], Shapes]) -> Shapes:
    """As Qwen3-Next and Qwen3.5 have it: one that attends to all tokens."""
    hidden = settings["hidden_size"]
    alone = {**settings, "layer_types": ["full_attention"], "num_hidden_layers": 1}
    layer = {name: shape for name, shape in saved(alone).items() if name.startswith("model.layers.0.")}
    return {
        **{name.replace("model.", "mtp.", 1): shape for name, shape in layer.items()},
        "mtp.fc.weight": (hidden, 2 * hidden),
        **{f"mtp.{name}.weight": (hidden,) for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")},
    }


def _behind(settings: Mapping[str, Any], saved: Callable[[Mapping[str, Any]], Shapes]) -> Shapes:
    """As DeepSeek V3 and GLM-4.5 have it: behind the last layer, with an embedding and a head of its own."""
    number, hidden, vocabulary = (settings[key] for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    before = f"model.layers.{number}."
    # That layer has experts, however few layers a test leaves before it.
    more = {**settings, "num_hidden_layers": number + 1, "first_k_dense_replace": min(number, 1)}
    layer = {name: shape for name, shape in saved(more).items() if name.startswith(before)}
    own = {
        "eh_proj": (hidden, 2 * hidden),
        "enorm": (hidden,),
        "hnorm": (hidden,),
        "embed_tokens": (vocabulary, hidden),
        "shared_head.head": (vocabulary, hidden),
        "shared_head.norm": (hidden,),
    }
    return {**layer, **{f"{before}{name}.weight": shape for name, shape in own.items()}}
