"""Gemma 4 12B: no encoders; patches of pixels and frames of sound are only normed and multiplied by matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from quantkit.arch.base import Config, Rule, require
from quantkit.arch.class_defaults import with_defaults
from quantkit.arch.decoder import linear
from quantkit.arch.vision.base import Encoder, Sight, VisionTower, encoder_metadata, norm
from quantkit.arch.vision.gemma4 import IMAGE, SQUARE, plain_pictures, require_attention
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, boolean, f32, string, u32

_MODULE = "vision_embedder."
_EPSILON = 1e-6
# Samples of sound in a token, which libmtmd has as a number; and the frequencies that the converter writes, of none.
_FRAME, _MELS = 640, 128
_AUDIO = "config.json: audio_config"
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 16,
    "pooling_kernel_size": SQUARE,
    "mm_embed_dim": 3840,
    "mm_posemb_size": 1120,
    "rms_norm_eps": _EPSILON,
}
_AUDIO_DEFAULTS: Mapping[str, Any] = {"audio_embed_dim": _FRAME, "rms_norm_eps": _EPSILON}


def metadata(sight: Sight) -> list[KV]:
    width, patch, audio = sight.size("mm_embed_dim"), sight.size("patch_size"), _audio(sight)
    sight.require("pooling_kernel_size", SQUARE)
    sight.require("rms_norm_eps", _EPSILON)
    sight.require("output_proj_dims", width)
    sight.require("model_patch_size", SQUARE * patch)
    require(audio, "audio_embed_dim", _FRAME, where=_AUDIO)
    require(audio, "rms_norm_eps", _EPSILON, where=_AUDIO)
    require_attention(sight, "vision", default="vision")
    size = Encoder(width=width, inner=0, blocks=0, heads=0, image=IMAGE, patch=patch)
    pictures = plain_pictures(sight, patch)
    return [
        *encoder_metadata(sight, size, "gemma4uv", _EPSILON, pictures=pictures, beside_audio=True),
        boolean("clip.has_audio_encoder", True),
        u32("clip.audio.projection_dim", sight.hidden),
        u32("clip.audio.embedding_length", _FRAME),
        *(u32(f"clip.audio.{key}", 0) for key in ("feed_forward_length", "block_count", "attention.head_count")),
        string("clip.audio.projector_type", "gemma4ua"),
        u32("clip.audio.num_mel_bins", _MELS),
        f32("clip.audio.attention.layer_norm_epsilon", _EPSILON),
    ]


def _audio(sight: Sight) -> Config:
    """The settings for sound, which llama.cpp's converter needs."""
    given = sight.config.get("audio_config")
    if not isinstance(given, Mapping):
        raise ArchitectureError(
            "config.json: audio_config is missing; this family sees and hears",
            hint="copy audio_config from the config.json of the base model",
        )
    return with_defaults(given, _AUDIO_DEFAULTS)


def rules(sight: Sight) -> list[Rule]:
    width, positions = sight.size("mm_embed_dim"), sight.size("mm_posemb_size")
    pixels = 3 * (SQUARE * sight.size("patch_size")) ** 2
    by_color = tuple(range(color, pixels, 3) for color in range(3))
    # One table for the columns of a picture, then one for its rows.
    by_direction = tuple(range(row, row + 1) for first in range(2) for row in range(first, 2 * positions, 2))
    return [
        *(
            Rule(f"{_MODULE}patch_ln1.{leaf}", f"v.patch_norm.1.{leaf}", (pixels,), arrange=_colors_apart, unit=pixels)
            for leaf in ("weight", "bias")
        ),
        Rule(f"{_MODULE}patch_dense.weight", "v.patch_embd.weight", (width, pixels), column_order=by_color),
        Rule(f"{_MODULE}patch_dense.bias", "v.patch_embd.bias", (width,)),
        *norm(f"{_MODULE}patch_ln2", "v.patch_norm.2", width),
        Rule(
            f"{_MODULE}pos_embedding",
            "v.position_embd.weight",
            (2, positions, width),
            source_shape=(positions, 2, width),
            row_order=by_direction,
        ),
        *norm(f"{_MODULE}pos_norm", "v.patch_norm.3", width),
        *linear("embed_vision.embedding_projection", "mm.input_projection", sight.hidden, width),
        *linear("embed_audio.embedding_projection", "mm.a.input_projection", sight.hidden, _FRAME),
    ]


def _colors_apart(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From the three colors of each pixel together to all pixels of each color."""
    return values.reshape(-1, 3).T.reshape(-1)


TOWER = VisionTower(metadata, rules, DEFAULTS)
