"""The encoder of audio that Gemma 4 E2B and E4B have in the same file: two convolutions, then conformer layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.arch.base import Config, Rule, positive, require
from quantkit.arch.class_defaults import with_defaults
from quantkit.arch.decoder import linear
from quantkit.arch.vision.base import Sight, clippable, norm
from quantkit.errors import ArchitectureError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.kv import KV, boolean, f32, string, u32

_TOWER = "audio_tower."
_WHERE = "config.json: audio_config"
_EPSILON = 1e-6
_MELS = 128
_INNER = 4  # times the width
_KERNEL = 3
_TAPS = 5
# What libmtmd has as numbers.
_FIXED: Mapping[str, Any] = {
    "hidden_act": "silu",
    "residual_weight": 0.5,
    "attention_chunk_size": 12,
    "attention_context_left": 13,
    "attention_context_right": 0,
    "attention_logit_cap": 50.0,
    "rms_norm_eps": _EPSILON,
    "gradient_clipping": 1e10,
    "conv_kernel_size": _TAPS,
}
DEFAULTS: Mapping[str, Any] = {
    **_FIXED,
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "subsampling_conv_channels": [128, 32],
    "use_clipped_linears": True,
    "output_proj_dims": 1536,
}


def audio_config(sight: Sight) -> Config | None:
    """The settings of the encoder, with those that config.json leaves out; None if there is no encoder."""
    given = sight.config.get("audio_config")
    return with_defaults(given, DEFAULTS) if isinstance(given, Mapping) else None


def audio_metadata(sight: Sight, audio: Config) -> list[KV]:
    for key, value in _FIXED.items():
        require(audio, key, value, where=_WHERE)
    require(audio, "input_feat_size", _MELS, where=_WHERE)
    width, heads = positive(audio, "hidden_size"), positive(audio, "num_attention_heads")
    if width % heads:
        raise ArchitectureError(f"{_WHERE}.hidden_size {width} is not a multiple of {heads} attention heads")
    return [
        boolean("clip.has_audio_encoder", True),
        u32("clip.audio.projection_dim", sight.hidden),
        u32("clip.audio.embedding_length", width),
        u32("clip.audio.feed_forward_length", _INNER * width),
        u32("clip.audio.block_count", positive(audio, "num_hidden_layers")),
        u32("clip.audio.attention.head_count", heads),
        string("clip.audio.projector_type", "gemma4a"),
        u32("clip.audio.num_mel_bins", _MELS),
        f32("clip.audio.attention.layer_norm_epsilon", _EPSILON),
    ]


def audio_rules(sight: Sight, audio: Config) -> list[Rule]:
    width, out = positive(audio, "hidden_size"), positive(audio, "output_proj_dims")
    one_layer = _layer(width, positive(audio, "num_attention_heads"), audio)
    layers = [
        replace(rule, source=f"{_TOWER}layers.{i}.{rule.source}", target=f"a.blk.{i}.{rule.target}")
        for i in range(positive(audio, "num_hidden_layers"))
        for rule in one_layer
    ]
    return [
        *_convolutions(width, audio),
        *layers,
        *linear(f"{_TOWER}output_proj", "a.pre_encode.out", out, width, bias=True),
        *linear("embed_audio.embedding_projection", "mm.a.input_projection", sight.hidden, out),
    ]


def _convolutions(width: int, audio: Config) -> list[Rule]:
    """Each halves time and frequency; the matrix after them takes what is left of the frequencies, float32 too."""
    module, channels = f"{_TOWER}subsample_conv_projection", audio["subsampling_conv_channels"]
    if not (isinstance(channels, (list, tuple)) and len(channels) == 2 and all(type(n) is int for n in channels)):
        raise ArchitectureError(f"{_WHERE}.subsampling_conv_channels is {channels!r}; expected two numbers")
    first, second = channels
    if first != _MELS:  # transformers takes the frequencies that are left for a quarter of these channels
        raise ArchitectureError(
            f"{_WHERE}.subsampling_conv_channels {channels!r} is not supported: the first is not {_MELS}"
        )
    rules = [
        rule
        for number, (before, after) in enumerate(((1, first), (first, second)))
        for rule in (
            Rule(f"{module}.layer{number}.conv.weight", f"a.conv1d.{number}.weight", (after, before, _KERNEL, _KERNEL)),
            *norm(f"{module}.layer{number}.norm", f"a.conv1d.{number}.norm", after, bias=False),
        )
    ]
    rules += linear(f"{module}.input_proj_linear", "a.input_projection", width, first // 4 * second)
    return [replace(rule, outtype=GGMLType.F32) for rule in rules]


def _layer(width: int, heads: int, audio: Config) -> list[Rule]:
    """The tensors of one layer, by names within it; llama.cpp has the two norms around the convolution swapped."""
    clipped = bool(audio["use_clipped_linears"])
    names = {
        **{f"self_attn.{name}_proj": (f"attn_{name}", width, width) for name in "qkv"},
        "self_attn.post": ("attn_out", width, width),
        "lconv1d.linear_start": ("conv_pw1", 2 * width, width),
        "lconv1d.linear_end": ("conv_pw2", width, width),
    }
    for half, ending in (("feed_forward1", ""), ("feed_forward2", "_1")):
        names[f"{half}.ffw_layer_1"] = (f"ffn_up{ending}", _INNER * width, width)
        names[f"{half}.ffw_layer_2"] = (f"ffn_down{ending}", width, _INNER * width)
    norms = {
        "feed_forward1.pre_layer_norm": "ffn_norm",
        "feed_forward1.post_layer_norm": "ffn_post_norm",
        "feed_forward2.pre_layer_norm": "ffn_norm_1",
        "feed_forward2.post_layer_norm": "ffn_post_norm_1",
        "lconv1d.pre_layer_norm": "conv_norm",
        "lconv1d.conv_norm": "norm_conv",
        "norm_pre_attn": "attn_pre_norm",
        "norm_post_attn": "attn_post_norm",
        "norm_out": "ln2",
    }
    return [
        *(
            rule
            for source, (name, *shape) in names.items()
            for rule in clippable(source, name, *shape, clipped=clipped)
        ),
        *(rule for source, name in norms.items() for rule in norm(source, name, width, bias=False)),
        *linear("self_attn.relative_k_proj", "attn_k_rel", width, width),
        Rule("self_attn.per_dim_scale", "per_dim_scale.weight", (width // heads,), compute=softplus),
        Rule(
            "lconv1d.depthwise_conv1d.weight",
            "conv_dw.weight",
            (width, _TAPS),
            source_shape=(width, 1, _TAPS),
            outtype=GGMLType.F32,
        ),
    ]


def softplus(values: npt.NDArray[Any], start: int) -> npt.NDArray[Any]:
    """The factors of the queries, in the type of the values, as llama.cpp's converter computes them with torch."""
    import torch

    found: npt.NDArray[Any] = torch.nn.functional.softplus(torch.from_numpy(np.array(values))).numpy()
    return found
