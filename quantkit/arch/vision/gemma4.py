"""Gemma 4: patches with a position for each direction, averaged in squares of three; linear layers that may clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.arch.base import Config, Rule, require
from quantkit.arch.decoder import linear
from quantkit.arch.rope import rope_base
from quantkit.arch.vision.base import (
    PICTURES,
    Encoder,
    Sight,
    VisionTower,
    clippable,
    encoder,
    encoder_metadata,
    in_blocks,
    norm,
    patch_shape,
)
from quantkit.arch.vision.gemma4_audio import audio_config, audio_metadata, audio_rules
from quantkit.gguf.kv import KV

_TOWER = "vision_tower."
IMAGE = 224  # the converter's; libmtmd does not use it
SQUARE = 3
_EPSILON = 1e-6
_ROPE_BASE = 100.0
# libmtmd knows by their width the models whose language model sees a picture from its first row to its last only.
_CAUSAL_WIDTHS = (1536, 2560)
_UNCHANGED = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": _EPSILON,
    "attention_bias": False,
    "pooling_kernel_size": SQUARE,
    "patch_size": 16,
    "position_embedding_size": 10240,
    "use_clipped_linears": False,
    "standardize": False,
}


def _size(sight: Sight) -> Encoder:
    patch = sight.size("patch_size")
    return encoder(sight, image=IMAGE - IMAGE % patch)


def metadata(sight: Sight) -> list[KV]:
    size = _size(sight)
    sight.require("hidden_activation", "gelu_pytorch_tanh")
    sight.require("rms_norm_eps", _EPSILON)
    sight.require("attention_bias", False)
    sight.require("num_key_value_heads", size.heads)
    sight.require("head_dim", size.width // size.heads)
    sight.require("pooling_kernel_size", SQUARE)
    nested = sight.vision.get("rope_parameters")
    base = rope_base({"rope_theta": _ROPE_BASE, **(nested if isinstance(nested, Mapping) else {})})
    require({"rope_theta": base}, "rope_theta", _ROPE_BASE, where="config.json: vision_config")
    require_attention(sight, False if sight.hidden in _CAUSAL_WIDTHS else "vision")
    pictures = plain_pictures(sight, size.patch)
    seen = encoder_metadata(sight, size, "gemma4v", _EPSILON, pictures=pictures, beside_audio=True)
    audio = audio_config(sight)
    return seen if audio is None else [*seen, *audio_metadata(sight, audio)]


def plain_pictures(sight: Sight, patch: int) -> Config:
    """How pictures are prepared, in numbers with which libmtmd, which always normalizes, does not change them either.

    Raises:
        ArchitectureError: they are normalized, or cut otherwise than *patch* says.
    """
    for key, value in (("patch_size", patch), ("pooling_kernel_size", SQUARE)):
        require(sight.pictures, key, value, where=PICTURES)
    for key, numbers in _UNCHANGED.items():
        require(sight.pictures, key, numbers, where=PICTURES)
    return {**sight.pictures, **_UNCHANGED, "do_normalize": True}


def require_attention(sight: Sight, wanted: bool | str, default: bool | str = False) -> None:
    """Refuse a model whose tokens of a picture attend otherwise than libmtmd decides for the family.

    Args:
        sight: what describes the checkpoint.
        wanted: ``vision`` if they attend to each other, False if to earlier ones only.
        default: what the class takes if config.json does not say.

    Raises:
        ArchitectureError: they attend otherwise.
    """
    text = sight.config.get("text_config")
    settings = text if isinstance(text, Mapping) else {}
    key = "use_bidirectional_attention"
    given = settings.get(key, default)
    require({key: False if given is None else given}, key, wanted, where="config.json: text_config")


def rules(sight: Sight) -> list[Rule]:
    size = _size(sight)
    width, positions, audio = size.width, sight.size("position_embedding_size"), audio_config(sight)
    return [
        _patches(size),
        Rule(f"{_TOWER}patch_embedder.position_embedding_table", "v.position_embd.weight", (2, positions, width)),
        *in_blocks(size, f"{_TOWER}encoder.layers.{{}}.", _layer(sight, size)),
        *(
            Rule(f"{_TOWER}std_{part}", f"v.std_{part}", (width,))
            for part in ("bias", "scale")
            if sight.vision["standardize"]
        ),
        *linear("embed_vision.embedding_projection", "mm.input_projection", sight.hidden, width),
        *(audio_rules(sight, audio) if audio is not None else ()),
    ]


def _patches(size: Encoder) -> Rule:
    """A matrix over the pixels of a patch, with their colors together, as the convolution that ggml computes."""
    pixels = 3 * size.patch**2
    return Rule(
        f"{_TOWER}patch_embedder.input_proj.weight",
        "v.patch_embd.weight",
        patch_shape(size),
        arrange=lambda rows: rows.reshape(-1, size.patch),
        unit=3 * size.patch,
        source_shape=(size.width, pixels),
        source_unit=1,
        column_order=tuple(range(color, pixels, 3) for color in range(3)),
    )


def _layer(sight: Sight, size: Encoder) -> list[Rule]:
    width, inner, head = size.width, size.inner, size.width // size.heads
    clipped = bool(sight.vision["use_clipped_linears"])
    return [
        *norm("input_layernorm", "ln1", width, bias=False),
        *(
            rule
            for source, target, rows, columns in (
                *((f"self_attn.{name}_proj", f"attn_{name}", width, width) for name in "qkv"),
                ("self_attn.o_proj", "attn_out", width, width),
                ("mlp.gate_proj", "ffn_gate", inner, width),
                ("mlp.up_proj", "ffn_up", inner, width),
                ("mlp.down_proj", "ffn_down", width, inner),
            )
            for rule in clippable(source, target, rows, columns, clipped=clipped)
        ),
        *norm("self_attn.q_norm", "attn_q_norm", head, bias=False),
        *norm("self_attn.k_norm", "attn_k_norm", head, bias=False),
        *norm("post_attention_layernorm", "attn_post_norm", width, bias=False),
        *norm("pre_feedforward_layernorm", "ln2", width, bias=False),
        *norm("post_feedforward_layernorm", "ffn_post_norm", width, bias=False),
    ]


TOWER = VisionTower(
    metadata,
    rules,
    DEFAULTS,
    notes=(
        "the encoder of pictures: libmtmd computes GELU as x * sigmoid(1.702 x), transformers with tanh; llama.cpp's "
        "converter does not say which",
    ),
)
