"""Qwen3-Next: three layers with a gated delta net, then one that attends to all tokens; experts in every layer.

And what Qwen3.5 has of it: gated attention of which a quarter of each head is rotated, norms stored minus one, a layer
for multi-token prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from quantkit.arch.base import Architecture, Config, Rule, layers, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    Sizes,
    decoder_metadata,
    decoder_rules,
    gated_mlp,
    head_norms,
    linear,
    sizes,
    vector,
)
from quantkit.arch.experts import GATED, expert_metadata, expert_rules, refuse_partly_sparse
from quantkit.arch.gated_delta import DeltaSizes, attends, delta_metadata, delta_sizes, fused
from quantkit.arch.gemma_layers import plus_one
from quantkit.arch.mrope import plain_rope
from quantkit.arch.mtp import QWEN
from quantkit.arch.mtp_layers import mtp_metadata, mtp_rules
from quantkit.arch.qwen2 import TOKENIZERS
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV, u32

# transformers' default of the share of a head that is rotated.
ROTATED = 0.25
INNER = "moe_intermediate_size"


def metadata(config: Config) -> list[KV]:
    refuse_partly_sparse(config, renormalized=True)
    return [*hybrid_metadata("qwen3next", config), *shared_expert_metadata("qwen3next", config)]


def hybrid_metadata(arch: str, config: Config, *, dense: bool = False) -> list[KV]:
    """The entries of Qwen3-Next and its successors, without those of experts.

    Args:
        arch: the GGUF architecture.
        config: config.json.
        dense: layers have an MLP instead of experts.
    """
    require(config, "hidden_act", "silu")
    require(config, "attention_bias", False)
    require(config, "attn_output_gate", True)
    more = written_mtp(config)
    return [
        *decoder_metadata(arch, {**config, "num_hidden_layers": layers(config) + more}, dense=dense),
        *rope_metadata(arch, plain_rope(config, ROTATED), ("linear", "yarn"), partial=True),
        *delta_metadata(arch, config, more),
        *mtp_metadata(arch, more),
    ]


def written_mtp(config: Config) -> int:
    """The number of layers for multi-token prediction, as :func:`quantkit.arch.mtp.settle` left it in the config."""
    return positive(config, QWEN.key) if config.get(QWEN.key) else 0


def shared_expert_metadata(arch: str, config: Config) -> list[KV]:
    """The entries of experts, one of which all tokens share."""
    return [
        *expert_metadata(arch, config, "num_experts"),
        u32(f"{arch}.expert_feed_forward_length", positive(config, INNER)),
        u32(f"{arch}.expert_shared_feed_forward_length", positive(config, "shared_expert_intermediate_size")),
    ]


def shared_expert_rules(config: Config, size: Sizes) -> list[Rule]:
    """The experts of a layer, one of which all tokens share."""
    return [
        *expert_rules("mlp", positive(config, "num_experts"), GATED, size.hidden, positive(config, INNER)),
        *linear("mlp.shared_expert_gate", "ffn_gate_inp_shexp", 1, size.hidden),
        *gated_mlp(
            size.hidden,
            positive(config, "shared_expert_intermediate_size"),
            source="mlp.shared_expert",
            suffix="_shexp",
        ),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config, INNER)
    return hybrid_rules(config, size, fused, shared_expert_rules(config, size))


def hybrid_rules(
    config: Config, size: Sizes, net: Callable[[DeltaSizes], list[Rule]], mlp: Sequence[Rule]
) -> list[Rule]:
    """The tensors of Qwen3-Next or a successor.

    Args:
        config: config.json.
        size: sizes of attention.
        net: the tensors of a layer's gated delta net.
        mlp: those of its MLP or experts.
    """
    full = attends(config)
    delta, attention = net(delta_sizes(config)), _gated_attention(size)
    made = decoder_rules(config, lambda i: _layer(size, attention if full[i] else delta, mlp))
    for i in range(written_mtp(config)):
        made += mtp_rules(QWEN, _layer(size, attention, mlp), len(full) + i, size.hidden)
    return [replace(rule, arrange=plus_one) if _is_less_one(rule.source) else rule for rule in made]


def _layer(size: Sizes, mixer: Sequence[Rule], mlp: Sequence[Rule]) -> list[Rule]:
    return [
        vector("input_layernorm", "attn_norm", size.hidden),
        *mixer,
        vector("post_attention_layernorm", "post_attention_norm", size.hidden),
        *mlp,
    ]


def _gated_attention(size: Sizes) -> list[Rule]:
    """Attention whose q has, behind the query of each head, the gate of its result."""
    return [
        *linear("self_attn.q_proj", "attn_q", 2 * size.queries, size.hidden),
        *linear("self_attn.k_proj", "attn_k", size.keys, size.hidden),
        *linear("self_attn.v_proj", "attn_v", size.keys, size.hidden),
        *linear("self_attn.o_proj", "attn_output", size.hidden, size.queries),
        *head_norms(size.head),
    ]


def _is_less_one(source: str | tuple[str, ...]) -> bool:
    """Whether it is a norm that is stored minus one: all but those of gated delta nets."""
    if not isinstance(source, str):
        return False
    norm = source.endswith(("norm.weight", ".pre_fc_norm_embedding.weight", ".pre_fc_norm_hidden.weight"))
    return norm and not source.endswith("linear_attn.norm.weight")


ARCHITECTURE = Architecture(
    "qwen3next", metadata, rules, tokenizers=TOKENIZERS, defaults=CLASS_DEFAULTS["qwen3_next"], mtp=QWEN
)
