"""Short convolutions (LFM2): over a few tokens, channel by channel, between two gates; in the place of attention."""

from __future__ import annotations

from quantkit.arch.base import Config, Rule, positive, require
from quantkit.arch.decoder import linear
from quantkit.gguf.kv import KV, u32


def shortconv_metadata(arch: str, config: Config) -> list[KV]:
    """The number of tokens that a convolution sees."""
    require(config, "conv_bias", False)
    return [u32(f"{arch}.shortconv.l_cache", positive(config, "conv_L_cache"))]


def shortconv(config: Config) -> list[Rule]:
    """The tensors of a layer's convolution; torch keeps a dimension of one between channels and tokens."""
    hidden, tokens = positive(config, "hidden_size"), positive(config, "conv_L_cache")
    return [
        Rule(
            "conv.conv.weight",
            "shortconv.conv.weight",
            (hidden, tokens),
            source_shape=(hidden, 1, tokens),
        ),
        *linear("conv.in_proj", "shortconv.in_proj", 3 * hidden, hidden),
        *linear("conv.out_proj", "shortconv.out_proj", hidden, hidden),
    ]
