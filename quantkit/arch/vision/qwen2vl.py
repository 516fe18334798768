"""Qwen2-VL and Qwen2.5-VL; the latter attends within windows in most layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.arch.base import Rule
from quantkit.arch.decoder import linear
from quantkit.arch.vision.base import (
    Encoder,
    Sight,
    VisionTower,
    activation,
    encoder_metadata,
    fused_qkv,
    in_blocks,
    norm,
)
from quantkit.arch.vision.qwen_patches import SQUARE, TOWER, patches, qwen_encoder, require_width
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32

# libmtmd takes it for the size of the largest picture, whatever the model was trained on.
_IMAGE = 560
_EPSILON = 1e-6  # transformers' classes have it as a number
_WINDOW = 112

_SHARED: Mapping[str, Any] = {
    "depth": 32,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": SQUARE,
    "temporal_patch_size": 2,
    "image_size": _IMAGE,
}
_DEFAULTS_2: Mapping[str, Any] = {
    **_SHARED,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "hidden_act": "quick_gelu",
    "mlp_ratio": 4,
}
_DEFAULTS_2_5: Mapping[str, Any] = {
    **_SHARED,
    "hidden_size": 3584,
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "out_hidden_size": 3584,
    "window_size": _WINDOW,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


def _size_2(sight: Sight) -> Encoder:
    # The converter writes the language model's width for that inside of the MLP, which libmtmd does not use.
    return qwen_encoder(sight, sight.size("image_size"), width="embed_dim", inner="hidden_size")


def _metadata_2(sight: Sight) -> list[KV]:
    require_width(sight, "hidden_size")
    size = _size_2(sight)
    return [
        *encoder_metadata(sight, size, "qwen2vl_merger", _EPSILON),
        *activation(sight, {"quick_gelu": ""}),
    ]


def _rules_2(sight: Sight) -> list[Rule]:
    size = _size_2(sight)
    inner = size.width * sight.size("mlp_ratio")
    mlp = [
        *linear("mlp.fc1", "ffn_up", inner, size.width, bias=True),
        *linear("mlp.fc2", "ffn_down", size.width, inner, bias=True),
    ]
    return _rules(sight, size, mlp, norm_bias=True)


def _metadata_2_5(sight: Sight) -> list[KV]:
    require_width(sight, "out_hidden_size")
    sight.require("window_size", _WINDOW)
    size = qwen_encoder(sight, sight.size("image_size"))
    return [
        *encoder_metadata(sight, size, "qwen2.5vl_merger", _EPSILON),
        *activation(sight, {"silu": "silu"}),
        u32("clip.vision.n_wa_pattern", _period(sight, size)),
    ]


def _period(sight: Sight, size: Encoder) -> int:
    """Every so many layers, one attends to the whole picture."""
    whole = sight.vision["fullatt_block_indexes"]
    if isinstance(whole, (list, tuple)) and whole and all(isinstance(i, int) for i in whole):
        period = int(whole[0]) + 1
        if list(whole) == list(range(period - 1, size.blocks, period)):
            return period
    raise ArchitectureError(
        f"config.json: vision_config.fullatt_block_indexes {whole!r} is not supported: llama.cpp attends to the whole "
        "picture in every n-th layer"
    )


def _rules_2_5(sight: Sight) -> list[Rule]:
    size = qwen_encoder(sight, sight.size("image_size"))
    mlp = [
        *linear("mlp.gate_proj", "ffn_gate", size.inner, size.width, bias=True),
        *linear("mlp.up_proj", "ffn_up", size.inner, size.width, bias=True),
        *linear("mlp.down_proj", "ffn_down", size.width, size.inner, bias=True),
    ]
    return _rules(sight, size, mlp, norm_bias=False)


def _rules(sight: Sight, size: Encoder, mlp: list[Rule], *, norm_bias: bool) -> list[Rule]:
    width, merged = size.width, SQUARE * SQUARE * size.width
    layer = [
        *norm("norm1", "ln1", width, bias=norm_bias),
        *fused_qkv("attn.qkv", width),
        *linear("attn.proj", "attn_out", width, width, bias=True),
        *norm("norm2", "ln2", width, bias=norm_bias),
        *mlp,
    ]
    return [
        *patches(size),
        *in_blocks(size, f"{TOWER}blocks.{{}}.", layer),
        *norm(f"{TOWER}merger.ln_q", "v.post_ln", width, bias=norm_bias),
        *linear(f"{TOWER}merger.mlp.0", "mm.0", merged, merged, bias=True),
        *linear(f"{TOWER}merger.mlp.2", "mm.2", sight.hidden, merged, bias=True),
    ]


QWEN2 = VisionTower(_metadata_2, _rules_2, _DEFAULTS_2)
QWEN2_5 = VisionTower(_metadata_2_5, _rules_2_5, _DEFAULTS_2_5)
