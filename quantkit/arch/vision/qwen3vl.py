"""Qwen3-VL and Qwen3.5, with learned positions; layers of Qwen3-VL's encoder also feed those of its language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.arch.base import Rule, number, positive, require
from quantkit.arch.decoder import linear
from quantkit.arch.vision.base import Encoder, Sight, VisionTower, activation, encoder_metadata, in_blocks, norm
from quantkit.arch.vision.qwen_patches import SQUARE, TOWER, patches, qwen_encoder, require_width
from quantkit.arch.vision.siglip import ACTIVATIONS
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, KVType, array, u32

_EPSILON = 1e-6  # transformers' classes have it as a number
_LAYERS = "num_hidden_layers"
_SHARED: Mapping[str, Any] = {
    "depth": 27,
    "hidden_size": 1152,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 4304,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": SQUARE,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}
DEFAULTS_3: Mapping[str, Any] = {**_SHARED, "deepstack_visual_indexes": [8, 16, 24]}
DEFAULTS_3_5: Mapping[str, Any] = _SHARED


def _size(sight: Sight) -> Encoder:
    """The sizes; a picture has as many patches as there are positions."""
    positions, patch = sight.size("num_position_embeddings"), sight.size("patch_size")
    return qwen_encoder(sight, int(positions**0.5 * patch))


def metadata(sight: Sight) -> list[KV]:
    require_width(sight, "out_hidden_size")
    size = _size(sight)
    _require_epsilon(sight)
    stacked = _stacked(sight, size)
    return [
        *encoder_metadata(sight, size, "qwen3vl_merger", _EPSILON),
        *activation(sight, ACTIVATIONS),
        u32("clip.vision.spatial_merge_size", SQUARE),
        array("clip.vision.is_deepstack_layers", [i in stacked for i in range(size.blocks)], KVType.BOOL),
    ]


def _require_epsilon(sight: Sight) -> None:
    """The converter writes the language model's, and the encoder has one of its own."""
    text = sight.config.get("text_config")
    if isinstance(text, Mapping) and text.get("rms_norm_eps") is not None:
        require({"rms_norm_eps": number(text, "rms_norm_eps")}, "rms_norm_eps", _EPSILON)


def _stacked(sight: Sight, size: Encoder) -> list[int]:
    """The layers that also feed the language model, in the order of their mergers."""
    layers = sight.vision.get("deepstack_visual_indexes") or []
    sound = isinstance(layers, (list, tuple)) and all(isinstance(i, int) and 0 <= i < size.blocks for i in layers)
    if not sound or list(layers) != sorted(set(layers)):
        raise ArchitectureError(
            f"config.json: vision_config.deepstack_visual_indexes is {layers!r}; expected layers from 0 to "
            f"{size.blocks - 1} in order"
        )
    text = sight.config.get("text_config")
    spoken = positive({_LAYERS: 32, **(text if isinstance(text, Mapping) else {})}, _LAYERS)
    if len(layers) >= spoken:
        raise ArchitectureError(
            f"config.json: {len(layers)} deepstack_visual_indexes are not supported: llama.cpp's language model takes "
            f"them in the layers before its last, and has {spoken}"
        )
    return list(layers)


def rules(sight: Sight) -> list[Rule]:
    size = _size(sight)
    width, merged = size.width, SQUARE * SQUARE * size.width
    layer = [
        *norm("norm1", "ln1", width),
        *linear("attn.qkv", "attn_qkv", 3 * width, width, bias=True),
        *linear("attn.proj", "attn_out", width, width, bias=True),
        *norm("norm2", "ln2", width),
        *linear("mlp.linear_fc1", "ffn_up", size.inner, width, bias=True),
        *linear("mlp.linear_fc2", "ffn_down", width, size.inner, bias=True),
    ]
    positions = (sight.size("num_position_embeddings"), width)
    return [
        *patches(size),
        Rule(f"{TOWER}patch_embed.proj.bias", "v.patch_embd.bias", (width,)),
        Rule(f"{TOWER}pos_embed.weight", "v.position_embd.weight", positions),
        *in_blocks(size, f"{TOWER}blocks.{{}}.", layer),
        *norm(f"{TOWER}merger.norm", "v.post_ln", width),
        *linear(f"{TOWER}merger.linear_fc1", "mm.0", merged, merged, bias=True),
        *linear(f"{TOWER}merger.linear_fc2", "mm.2", sight.hidden, merged, bias=True),
        *(
            rule
            for number, layer_number in enumerate(_stacked(sight, size))
            for rule in _deep(f"{TOWER}deepstack_merger_list.{number}", f"v.deepstack.{layer_number}", merged, sight)
        ),
    ]


def _deep(source: str, target: str, merged: int, sight: Sight) -> list[Rule]:
    """The merger of one of these layers."""
    return [
        *norm(f"{source}.norm", f"{target}.norm", merged),
        *linear(f"{source}.linear_fc1", f"{target}.fc1", merged, merged, bias=True),
        *linear(f"{source}.linear_fc2", f"{target}.fc2", sight.hidden, merged, bias=True),
    ]


QWEN3 = VisionTower(metadata, rules, DEFAULTS_3)
QWEN3_5 = VisionTower(metadata, rules, DEFAULTS_3_5)
