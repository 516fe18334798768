"""SigLIP, the encoder of Gemma 3 and SmolVLM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantkit.arch.base import Rule
from quantkit.arch.decoder import linear
from quantkit.arch.vision.base import Encoder, in_blocks, norm, patch_shape
from quantkit.ggml.types import GGMLType

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu"}
DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def siglip_rules(size: Encoder, source: str) -> list[Rule]:
    """The encoder's tensors.

    Args:
        size: its sizes.
        source: beginning of its names in the checkpoint, with its dot.
    """
    width, inner = size.width, size.inner
    layer = [
        *norm("layer_norm1", "ln1", width),
        *(
            rule
            for name, target in (
                ("q_proj", "attn_q"),
                ("k_proj", "attn_k"),
                ("v_proj", "attn_v"),
                ("out_proj", "attn_out"),
            )
            for rule in linear(f"self_attn.{name}", target, width, width, bias=True)
        ),
        *norm("layer_norm2", "ln2", width),
        *linear("mlp.fc1", "ffn_up", inner, width, bias=True),
        *linear("mlp.fc2", "ffn_down", width, inner, bias=True),
    ]
    return [
        *_whole(
            (
                Rule(f"{source}embeddings.patch_embedding.weight", "v.patch_embd.weight", patch_shape(size)),
                Rule(f"{source}embeddings.patch_embedding.bias", "v.patch_embd.bias", (width,)),
                Rule(f"{source}embeddings.position_embedding.weight", "v.position_embd.weight", (size.side**2, width)),
            )
        ),
        *in_blocks(size, f"{source}encoder.layers.{{}}.", layer),
        *norm(f"{source}post_layernorm", "v.post_ln", width),
    ]


def _whole(rules: Iterable[Rule]) -> list[Rule]:
    """The rules with float32 targets: llama.cpp's converter never rounds these embeddings."""
    return [replace(rule, outtype=GGMLType.F32) for rule in rules]
