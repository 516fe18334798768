"""LFM2-MoE: LFM2 with experts in all but the first layers."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import decoder_rules, sizes
from quantkit.arch.deepseek_moe import dense_layers
from quantkit.arch.experts import GATINGS, expert_metadata, expert_rules
from quantkit.arch.lfm2 import dense_mlp, kinds, last_norm, lfm2_metadata, mixer
from quantkit.gguf.kv import KV, u32

_DENSE = "num_dense_layers"
_EXPERT = {"gate": "w1", "down": "w2", "up": "w3"}


def metadata(config: Config) -> list[KV]:
    require(config, "norm_topk_prob", True)
    require(config, "use_expert_bias", True)
    require(config, "routed_scaling_factor", 1)
    return [
        *lfm2_metadata("lfm2moe", config),
        *expert_metadata("lfm2moe", config, "num_experts"),
        u32("lfm2moe.expert_feed_forward_length", positive(config, "moe_intermediate_size")),
        u32("lfm2moe.leading_dense_block_count", dense_layers(config, _DENSE)),
        u32("lfm2moe.expert_gating_func", GATINGS["sigmoid"]),
    ]


def rules(config: Config) -> list[Rule]:
    size, found, dense = sizes(config), kinds(config), dense_layers(config, _DENSE)
    count, inner = positive(config, "num_experts"), positive(config, "moe_intermediate_size")
    experts = expert_rules("feed_forward", count, _EXPERT, size.hidden, inner, bias="expert_bias")
    mlp = dense_mlp(size.hidden, size.inner)
    return decoder_rules(
        config, lambda i: mixer(config, size, found[i], mlp if i < dense else experts), last_norm(size)
    )


ARCHITECTURE = Architecture(
    "lfm2moe",
    metadata,
    rules,
    defaults=CLASS_DEFAULTS["lfm2_moe"],
    older_names={"tie_embedding": "tie_word_embeddings"},
)
