"""Gemma 3: SigLIP, whose patches are averaged in squares and projected."""

from __future__ import annotations

import math

from quantkit.arch.base import Rule, positive, require
from quantkit.arch.gemma_layers import add_ones
from quantkit.arch.vision.base import PICTURES, Sight, VisionTower, activation, encoder, encoder_metadata
from quantkit.arch.vision.siglip import ACTIVATIONS, DEFAULTS, siglip_rules
from quantkit.errors import ArchitectureError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.kv import KV, u32

_TOWER = "vision_tower."
_PROJECTOR = "multi_modal_projector"
# config.json and libmtmd leave out the released models' numbers.
_TOKENS, _SCALE = 256, 4


def metadata(sight: Sight) -> list[KV]:
    size = encoder(sight)
    tokens = positive({"mm_tokens_per_image": _TOKENS, **sight.config}, "mm_tokens_per_image")
    require(sight.pictures, "image_seq_length", tokens, where=PICTURES)
    scale, rest = divmod(size.side, math.isqrt(tokens))
    if rest or math.isqrt(tokens) ** 2 != tokens or not scale:
        raise ArchitectureError(
            f"config.json: mm_tokens_per_image {tokens} is not supported: {size.side} x {size.side} patches cannot be "
            "averaged in squares to this many tokens"
        )
    require(sight.pictures, "size", {"height": size.image, "width": size.image}, where=PICTURES)
    require(sight.pictures, "do_pan_and_scan", False, where=PICTURES)
    return [
        *encoder_metadata(sight, size, "gemma3", sight.number("layer_norm_eps")),
        *activation(sight, ACTIVATIONS),
        *([u32("clip.vision.projector.scale_factor", scale)] if scale != _SCALE else []),
    ]


def rules(sight: Sight) -> list[Rule]:
    size = encoder(sight)
    projection = Rule(
        f"{_PROJECTOR}.mm_input_projection_weight",
        "mm.input_projection.weight",
        (size.width, sight.hidden),
        outtype=GGMLType.F16,
    )
    soft_norm = Rule(f"{_PROJECTOR}.mm_soft_emb_norm.weight", "mm.soft_emb_norm.weight", (size.width,))
    return [*siglip_rules(size, _TOWER), projection, *add_ones([soft_norm])]


TOWER = VisionTower(metadata, rules, DEFAULTS, unused=(f"{_TOWER}head.",))
