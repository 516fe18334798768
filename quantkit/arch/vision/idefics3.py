"""SmolVLM and Idefics 3: SigLIP, whose squares of patches are put side by side and projected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.arch.base import Rule, positive, require
from quantkit.arch.decoder import linear
from quantkit.arch.vision.base import PICTURES, Sight, VisionTower, activation, encoder, encoder_metadata
from quantkit.arch.vision.siglip import ACTIVATIONS, DEFAULTS, siglip_rules
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32

_TOWER = "vision_model."
_DEFAULTS: Mapping[str, Any] = {
    **DEFAULTS,
    "hidden_size": 1152,
    "num_attention_heads": 16,
    "patch_size": 32,
}


def metadata(sight: Sight) -> list[KV]:
    size, scale = encoder(sight), _scale(sight)
    if size.side % scale:
        raise ArchitectureError(
            f"config.json: scale_factor {scale} is not supported: {size.side} x {size.side} patches cannot be merged"
        )
    longest = _edge(sight, "size", size.image)
    if (tile := _edge(sight, "max_image_size", size.image)) != size.image:
        raise ArchitectureError(
            f"{PICTURES}: max_image_size {tile} is not supported: llama.cpp cuts tiles of image_size {size.image}"
        )
    require(sight.pictures, "do_image_splitting", True, where=PICTURES)
    return [
        *encoder_metadata(sight, size, "idefics3", sight.number("layer_norm_eps")),
        *activation(sight, ACTIVATIONS),
        u32("clip.vision.projector.scale_factor", scale),
        u32("clip.vision.preproc_image_size", longest),
    ]


def _scale(sight: Sight) -> int:
    return positive({"scale_factor": 2, **sight.config}, "scale_factor")


def _edge(sight: Sight, key: str, default: int) -> int:
    """The longest edge in a setting of preprocessor_config.json."""
    setting = sight.pictures.get(key) or {}
    edge = setting.get("longest_edge", default) if isinstance(setting, Mapping) else setting
    if not isinstance(edge, int) or isinstance(edge, bool) or edge < 1:
        raise ArchitectureError(f"{PICTURES}: {key} is {setting!r}; expected a longest_edge")
    return edge


def rules(sight: Sight) -> list[Rule]:
    size, scale = encoder(sight), _scale(sight)
    return [
        *siglip_rules(size, _TOWER),
        *linear("connector.modality_projection.proj", "mm.model.fc", sight.hidden, scale * scale * size.width),
    ]


TOWER = VisionTower(metadata, rules, _DEFAULTS)
