"""InternVL in transformers' own layout (``InternVLForConditionalGeneration``): the same encoder under other names."""

from __future__ import annotations

from dataclasses import replace

from quantkit.arch.base import Rule, require
from quantkit.arch.decoder import linear
from quantkit.arch.vision.base import (
    PICTURES,
    Encoder,
    Sight,
    VisionTower,
    activation,
    encoder,
    encoder_metadata,
    in_blocks,
    norm,
    patch_shape,
)
from quantkit.arch.vision.internvl import SHIFTED, is_large, merged_side
from quantkit.gguf.kv import KV, u32

_TOWER, _PROJECTOR = "vision_tower.", "multi_modal_projector."
# Between how many tiles libmtmd cuts a picture, where the file does not say.
_TILES = {"min_patches": 1, "max_patches": 12}
DEFAULTS = {
    "num_channels": 3,
    "patch_size": [14, 14],
    "image_size": [448, 448],
    "attention_bias": False,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "use_qk_norm": False,
    "num_hidden_layers": 24,
    "hidden_act": "gelu",
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "use_absolute_position_embeddings": True,
    "use_mask_token": False,
}


def _square(sight: Sight) -> Sight:
    """With one number for the sides of a picture, and one for those of a patch, which are pairs here."""
    sides = {}
    for key in ("image_size", "patch_size"):
        given = sight.vision[key]
        if isinstance(given, list) and len(given) == 2 and given[0] == given[1]:
            given = given[0]
        sides[key] = given
    return replace(sight, vision={**sight.vision, **sides})


def metadata(sight: Sight) -> list[KV]:
    sight = _square(sight)
    size = encoder(sight)
    sight.require("norm_type", "rms_norm" if is_large(size) else "layer_norm")
    sight.require("use_absolute_position_embeddings", True)
    sight.require("use_mask_token", False)
    require(sight.config, "projector_hidden_act", "gelu")
    require(sight.config, "vision_feature_layer", -1)
    require(sight.config, "vision_feature_select_strategy", "default")
    for key, tiles in _TILES.items():
        require(sight.pictures, key, tiles, where=PICTURES)
    return [
        *encoder_metadata(sight, size, "internvl", sight.number("layer_norm_eps")),
        *activation(sight, {"gelu": "gelu", "silu": "silu"}),
        u32("clip.vision.projector.scale_factor", merged_side(sight, size)),
    ]


def rules(sight: Sight) -> list[Rule]:
    sight = _square(sight)
    size = encoder(sight)
    width, merged = size.width, merged_side(sight, size) ** 2 * size.width
    embeddings = f"{_TOWER}embeddings."
    return [
        Rule(f"{embeddings}cls_token", "v.class_embd", (1, 1, width)),
        Rule(f"{embeddings}patch_embeddings.projection.weight", "v.patch_embd.weight", patch_shape(size)),
        Rule(f"{embeddings}patch_embeddings.projection.bias", "v.patch_embd.bias", (width,)),
        Rule(f"{embeddings}position_embeddings", "v.position_embd.weight", (1, size.side**2 + 1, width)),
        *in_blocks(size, f"{_TOWER}encoder.layer.{{}}.", _layer(sight, size)),
        *norm(f"{_PROJECTOR}layer_norm", "mm.model.mlp.0", merged),
        *linear(f"{_PROJECTOR}linear_1", "mm.model.mlp.1", sight.hidden, merged, bias=True),
        *linear(f"{_PROJECTOR}linear_2", "mm.model.mlp.3", sight.hidden, sight.hidden, bias=True),
    ]


def _layer(sight: Sight, size: Encoder) -> list[Rule]:
    width, biased = size.width, not is_large(size)
    bias, normed = bool(sight.vision["attention_bias"]), bool(sight.vision["use_qk_norm"])
    return [
        *norm("layernorm_before", "ln1", width, bias=biased),
        *(rule for x in "qkv" for rule in linear(f"attention.{x}_proj", f"attn_{x}", width, width, bias=bias)),
        *(rule for x in "qk" if normed for rule in norm(f"attention.{x}_norm", f"attn_{x}_norm", width, bias=False)),
        *linear("attention.projection_layer", "attn_out", width, width, bias=True),
        *norm("layernorm_after", "ln2", width, bias=biased),
        *linear("mlp.fc1", "ffn_up", size.inner, width, bias=True),
        *linear("mlp.fc2", "ffn_down", width, size.inner, bias=True),
        Rule("lambda_1", "ls1.weight", (width,)),
        Rule("lambda_2", "ls2.weight", (width,)),
    ]


TOWER = VisionTower(metadata, rules, DEFAULTS, notes=(SHIFTED,))
