"""InternVL 2.5 and 3 in the layout of their own code (``InternVLChatModel``), with the encoder of 300 million weights
or that of 6 billion."""

from __future__ import annotations

from quantkit.arch.base import Rule, number, require
from quantkit.arch.decoder import linear
from quantkit.arch.vision.base import (
    Encoder,
    Sight,
    VisionTower,
    activation,
    encoder,
    encoder_metadata,
    fused_qkv,
    in_blocks,
    norm,
    patch_shape,
)
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32

_TOWER, _PROJECTOR = "vision_model.", "mlp1."
# The encoder of 6 billion weights, by whose sizes libmtmd knows that its norms are RMS norms.
_LARGE = (3200, 45)
# Of the class in the models' repositories.
DEFAULTS = {
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 224,
    "qkv_bias": False,
    "hidden_size": 3200,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "qk_normalization": True,
    "num_hidden_layers": 48,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
}


def metadata(sight: Sight) -> list[KV]:
    size = encoder(sight)
    sight.require("norm_type", "rms_norm" if is_large(size) else "layer_norm")
    require(sight.config, "ps_version", "v2")
    require(sight.config, "select_layer", -1)
    return [
        *encoder_metadata(sight, size, "internvl", sight.number("layer_norm_eps")),
        *activation(sight, {"gelu": "gelu", "silu": "silu"}),
        u32("clip.vision.projector.scale_factor", merged_side(sight, size)),
        *_tiles(sight),
    ]


def is_large(size: Encoder) -> bool:
    """Whether libmtmd takes the norms for RMS norms."""
    return (size.width, size.blocks) == _LARGE


def merged_side(sight: Sight, size: Encoder) -> int:
    """Patches on a side of the squares that are put side by side.

    Raises:
        ArchitectureError: they are no whole squares, or do not fill a picture.
    """
    ratio = number(sight.config, "downsample_ratio", above=0)
    if ratio > 1 or (1 / ratio) % 1:
        raise ArchitectureError(
            f"config.json: downsample_ratio {ratio:g} is not supported: llama.cpp merges whole squares of patches"
        )
    scale = int(1 / ratio)
    if size.side % scale:
        raise ArchitectureError(
            f"config.json: downsample_ratio is not supported: {size.side} x {size.side} cannot be merged by {scale}"
        )
    return scale


def _tiles(sight: Sight) -> list[KV]:
    """Between how many tiles a large picture may be cut into."""
    found = []
    for key, target in (("min_dynamic_patch", "preproc_min_tiles"), ("max_dynamic_patch", "preproc_max_tiles")):
        if (tiles := number({key: 0, **sight.config}, key)) > 0:
            found.append(u32(f"clip.vision.{target}", tiles))
    return found


def rules(sight: Sight) -> list[Rule]:
    size = encoder(sight)
    width, merged = size.width, merged_side(sight, size) ** 2 * size.width
    embeddings = f"{_TOWER}embeddings."
    return [
        Rule(f"{embeddings}class_embedding", "v.class_embd", (1, 1, width)),
        Rule(f"{embeddings}patch_embedding.weight", "v.patch_embd.weight", patch_shape(size)),
        Rule(f"{embeddings}patch_embedding.bias", "v.patch_embd.bias", (width,)),
        Rule(f"{embeddings}position_embedding", "v.position_embd.weight", (1, size.side**2 + 1, width)),
        *in_blocks(size, f"{_TOWER}encoder.layers.{{}}.", _layer(sight, size)),
        *norm(f"{_PROJECTOR}0", "mm.model.mlp.0", merged),
        *linear(f"{_PROJECTOR}1", "mm.model.mlp.1", sight.hidden, merged, bias=True),
        *linear(f"{_PROJECTOR}3", "mm.model.mlp.3", sight.hidden, sight.hidden, bias=True),
    ]


def _layer(sight: Sight, size: Encoder) -> list[Rule]:
    width = size.width
    biased = not is_large(size)
    normed = bool(sight.vision["qk_normalization"])
    return [
        *norm("norm1", "ln1", width, bias=biased),
        *fused_qkv("attn.qkv", width, bias=bool(sight.vision["qkv_bias"])),
        *(norm("attn.q_norm", "attn_q_norm", width, bias=False) if normed else []),
        *(norm("attn.k_norm", "attn_k_norm", width, bias=False) if normed else []),
        *linear("attn.proj", "attn_out", width, width, bias=True),
        *norm("norm2", "ln2", width, bias=biased),
        *linear("mlp.fc1", "ffn_up", size.inner, width, bias=True),
        *linear("mlp.fc2", "ffn_down", width, size.inner, bias=True),
        Rule("ls1", "ls1.weight", (width,)),
        Rule("ls2", "ls2.weight", (width,)),
    ]


# Its graph has the class token last, but the table of positions has it first.
SHIFTED = (
    "llama.cpp (as of llama-cpp-python 0.3.36) gives each patch of an InternVL picture the position of the one before: "
    "what the model sees differs a little from the original"
)
TOWER = VisionTower(metadata, rules, DEFAULTS, notes=(SHIFTED,))
