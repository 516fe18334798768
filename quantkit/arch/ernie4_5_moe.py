"""ERNIE 4.5 with experts: a softmax router with a bias for the choice, shared experts, dense layers first."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_rules, gated_mlp, pre_normed, sizes
from quantkit.arch.deepseek_moe import dense_layers
from quantkit.arch.ernie4_5 import TOKENIZERS, VOCABULARY, ernie_metadata
from quantkit.arch.experts import GATED, expert_metadata, expert_rules
from quantkit.gguf.kv import KV, u32

_ARCH = "ernie4_5-moe"
_FIRST = "moe_layer_start_index"


def metadata(config: Config) -> list[KV]:
    require(config, "moe_layer_interval", 1)
    _require_no_floor(config)
    require(config, "moe_layer_end_index", -1, layers(config) - 1)
    shared = _shared(config)
    return [
        *ernie_metadata(_ARCH, config),
        *expert_metadata(_ARCH, config, "moe_num_experts", "moe_k"),
        u32(f"{_ARCH}.interleave_moe_layer_step", 1),
        u32(f"{_ARCH}.leading_dense_block_count", dense_layers(config, _FIRST)),
        u32(f"{_ARCH}.expert_feed_forward_length", positive(config, "moe_intermediate_size")),
        u32(f"{_ARCH}.expert_shared_count", shared),
        *([u32(f"{_ARCH}.expert_shared_feed_forward_length", _shared_width(config))] if shared else ()),
    ]


def _require_no_floor(config: Config) -> None:
    """Refuse a least sum of the chosen experts' weights, ``moe_norm_min``, that a softmax can fall below."""
    least = positive(config, "moe_k") / positive(config, "moe_num_experts")
    if config.get("moe_norm_min") is not None and number(config, "moe_norm_min") > least:
        require(config, "moe_norm_min", f"up to {least:g}")


def _shared(config: Config) -> int:
    """The number of shared experts, which a config may set to 0 or null."""
    return positive(config, "moe_num_shared_experts") if config.get("moe_num_shared_experts") else 0


def _shared_width(config: Config) -> int:
    """The width of the shared experts, which are one MLP.

    llama.cpp's converter divides two other sizes instead, which gives the same for the released models.
    """
    return _shared(config) * positive(config, "moe_intermediate_size")


def rules(config: Config) -> list[Rule]:
    size, inner = sizes(config), positive(config, "moe_intermediate_size")
    count, first = positive(config, "moe_num_experts"), dense_layers(config, _FIRST)
    shared = gated_mlp(size.hidden, _shared_width(config), source="mlp.shared_experts", suffix="_shexp")
    bias = Rule("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias", (1, count))
    mixture = [
        *expert_rules("mlp", count, GATED, size.hidden, inner),
        bias,
        *(shared if _shared(config) else ()),
    ]
    dense = pre_normed(size, attention(size), gated_mlp(size.hidden, size.inner))
    sparse = pre_normed(size, attention(size), mixture)
    return decoder_rules(config, lambda i: dense if i < first else sparse)


ARCHITECTURE = Architecture(
    _ARCH,
    metadata,
    rules,
    tokenizers=TOKENIZERS,
    vocabulary=VOCABULARY,
    defaults=CLASS_DEFAULTS["ernie4_5_moe"],
)
