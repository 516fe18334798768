"""Granite's mixtures of experts: gate and up in one tensor of all experts, and an MLP that all tokens share."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, Rule, positive
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import Sizes, attention, decoder_rules, linear, pre_normed, sizes
from quantkit.arch.experts import expert_metadata
from quantkit.arch.granite import granite_metadata
from quantkit.gguf.kv import KV, u32

SHARED = "shared_intermediate_size"
_SPARSE, _MLP = "block_sparse_moe", "shared_mlp"


def metadata(config: Config) -> list[KV]:
    return [
        *granite_metadata("granitemoe", config),
        *expert_metadata("granitemoe", config, "num_local_experts"),
        *shared_metadata("granitemoe", config),
    ]


def shared_metadata(arch: str, config: Config) -> list[KV]:
    """The width of the MLP that all tokens share, if there is one."""
    return [u32(f"{arch}.expert_shared_feed_forward_length", positive(config, SHARED))] if config.get(SHARED) else []


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    return decoder_rules(config, pre_normed(size, granite_attention(config, size), mixture(config, size)))


def granite_attention(config: Config, size: Sizes) -> list[Rule]:
    """Attention as in Llama."""
    bias = bool(config.get("attention_bias", False))
    return attention(size, qkv_bias=bias, output_bias=bias, interleaved=True)


def mixture(config: Config, size: Sizes) -> list[Rule]:
    """The router, the experts, and the MLP that all tokens share."""
    count, inner, hidden = positive(config, "num_local_experts"), size.inner, size.hidden
    gated = (count, 2 * inner, hidden)
    return [
        Rule(f"{_SPARSE}.router.layer.weight", "ffn_gate_inp.weight", (count, hidden)),
        *(
            Rule(
                f"{_SPARSE}.input_linear.weight",
                f"ffn_{kind}_exps.weight",
                (count, inner, hidden),
                source_shape=gated,
                row_order=tuple(range(start, start + inner) for start in range(first, count * 2 * inner, 2 * inner)),
            )
            for kind, first in (("gate", 0), ("up", inner))
        ),
        Rule(f"{_SPARSE}.output_linear.weight", "ffn_down_exps.weight", (count, hidden, inner)),
        *(shared_mlp(hidden, positive(config, SHARED), "_shexp") if config.get(SHARED) else ()),
    ]


def shared_mlp(hidden: int, inner: int, suffix: str = "") -> Sequence[Rule]:
    """An MLP whose gate's rows stand above the up's in one matrix."""
    return [
        *(
            Rule(
                f"{_MLP}.input_linear.weight",
                f"ffn_{kind}{suffix}.weight",
                (inner, hidden),
                source_shape=(2 * inner, hidden),
                row_order=(range(first, first + inner),),
            )
            for kind, first in (("gate", 0), ("up", inner))
        ),
        *linear(f"{_MLP}.output_linear", f"ffn_down{suffix}", hidden, inner),
    ]


ARCHITECTURE = Architecture(
    "granitemoe",
    metadata,
    rules,
    tokenizers=llama.TOKENIZERS,
    vocabulary=llama.VOCABULARY,
    defaults=CLASS_DEFAULTS["granitemoe"],
)
