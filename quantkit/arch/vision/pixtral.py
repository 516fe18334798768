"""Pixtral, and Mistral Small 3.1 and 3.2, whose projector first merges squares of patches."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from quantkit.arch.base import Config, Rule, positive, require
from quantkit.arch.decoder import interleave_halves, linear
from quantkit.arch.rope import rope_base
from quantkit.arch.vision.base import (
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
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32

_TOWER, _PROJECTOR = "vision_tower.", "multi_modal_projector."
_BREAK = "[IMG_BREAK]"
_EPSILON = 1e-5  # transformers' class has it as a number
_ROPE_BASE = 10000.0
_MERGES = "Mistral3ForConditionalGeneration"
DEFAULTS = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 1024,
    "patch_size": 16,
    "hidden_act": "gelu",
}


def metadata(sight: Sight) -> list[KV]:
    sight.require("model_type", "pixtral")
    size = encoder(sight)
    sight.require("head_dim", size.width // size.heads)
    if (base := _rope_base(sight.vision)) != _ROPE_BASE:
        raise ArchitectureError(
            f"config.json: vision_config has rope_theta {base:g}, which is not supported: llama.cpp rotates with "
            f"{_ROPE_BASE:g}"
        )
    require(sight.config, "vision_feature_layer", -1)
    if not _merges(sight):
        require({"vision_feature_select_strategy": "default", **sight.config}, "vision_feature_select_strategy", "full")
    require(sight.config, "projector_hidden_act", "gelu")
    return [
        *encoder_metadata(sight, size, "pixtral", _EPSILON),
        *activation(sight, {"silu": "silu", "gelu": "gelu"}),
        *([u32("clip.vision.spatial_merge_size", _side(sight))] if _merges(sight) else []),
    ]


def _rope_base(vision: Config) -> float:
    nested = vision.get("rope_parameters")
    return rope_base({**vision, **(nested if isinstance(nested, dict) else {})})


def _merges(sight: Sight) -> bool:
    return _MERGES in (sight.config.get("architectures") or ())


def _side(sight: Sight) -> int:
    """Patches on a side of the squares that are merged."""
    return positive({"spatial_merge_size": 2, **sight.config}, "spatial_merge_size")


def rules(sight: Sight) -> list[Rule]:
    size = encoder(sight)
    width = size.width
    biased = bool(sight.config.get("multimodal_projector_bias", not _merges(sight)))
    return [
        Rule(f"{_TOWER}patch_conv.weight", "v.patch_embd.weight", patch_shape(size)),
        *norm(f"{_TOWER}ln_pre", "v.pre_ln", width, bias=False),
        *in_blocks(size, f"{_TOWER}transformer.layers.{{}}.", _layer(size)),
        *(_merger(width, _side(sight)) if _merges(sight) else []),
        *linear(f"{_PROJECTOR}linear_1", "mm.1", sight.hidden, width, bias=biased),
        *linear(f"{_PROJECTOR}linear_2", "mm.2", sight.hidden, sight.hidden, bias=biased),
        _end_of_row(sight),
    ]


def _layer(size: Encoder) -> list[Rule]:
    width, head = size.width, size.width // size.heads

    def rotated(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return interleave_halves(values, head)

    return [
        *norm("attention_norm", "ln1", width, bias=False),
        *linear("attention.q_proj", "attn_q", width, width, arrange=rotated, unit=head),
        *linear("attention.k_proj", "attn_k", width, width, arrange=rotated, unit=head),
        *linear("attention.v_proj", "attn_v", width, width),
        *linear("attention.o_proj", "attn_out", width, width),
        *norm("ffn_norm", "ln2", width, bias=False),
        *linear("feed_forward.gate_proj", "ffn_gate", size.inner, width),
        *linear("feed_forward.up_proj", "ffn_up", size.inner, width),
        *linear("feed_forward.down_proj", "ffn_down", width, size.inner),
    ]


def _merger(width: int, side: int) -> list[Rule]:
    return [
        *norm(f"{_PROJECTOR}norm", "mm.input_norm", width, bias=False),
        *linear(f"{_PROJECTOR}patch_merger.merging_layer", "mm.patch_merger", width, side * side * width),
    ]


def _end_of_row(sight: Sight) -> Rule:
    """The embedding of the token after each row of a picture, which libmtmd puts between the rows."""
    token = sight.token(_BREAK)
    if token is None or not 0 < token < sight.rows:
        raise ArchitectureError(
            f"tokenizer.json: the token {_BREAK}, which ends a row of a picture, is missing",
            hint="use the tokenizer of the base model",
        )
    return Rule(
        "model.embed_tokens.weight",
        "v.token_embd.img_break",
        (sight.hidden,),
        arrange=lambda row: row.reshape(-1),
        unit=sight.hidden,
        source_shape=(sight.rows, sight.hidden),
        row_order=(range(token, token + 1),),
    )


TOWER = VisionTower(metadata, rules, DEFAULTS)
