"""DeepSeek's mixture of experts, which GLM-4.5 has too: experts that all tokens share, beside those that are chosen.

The first layers are dense. The router may score with a sigmoid, add a bias to the scores for the choice alone, and
choose groups of experts first.
"""

from __future__ import annotations

from quantkit.arch.base import Config, Rule, number, positive
from quantkit.arch.decoder import gated_mlp
from quantkit.arch.experts import GATED, GATINGS, expert_metadata, expert_rules
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, boolean, f32, u32

UNGROUPED = "set n_group and topk_group to 1 in config.json: the model chooses among all experts, which is the same"


def mixture_metadata(arch: str, config: Config) -> list[KV]:
    """The sizes: experts, groups, shared experts, dense layers."""
    return [
        *expert_metadata(arch, config, "n_routed_experts"),
        *_groups(arch, config),
        u32(f"{arch}.expert_feed_forward_length", positive(config, "moe_intermediate_size")),
        u32(f"{arch}.expert_shared_count", positive(config, "n_shared_experts")),
        u32(f"{arch}.leading_dense_block_count", dense_layers(config)),
    ]


def dense_layers(config: Config, key: str = "first_k_dense_replace") -> int:
    """The number of dense layers before those with experts, from *key* of the config.

    Raises:
        ArchitectureError: it is no number from 0 to that of all layers.
    """
    count, most = config.get(key), positive(config, "num_hidden_layers")
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= most:
        raise ArchitectureError(f"config.json: {key} is {count!r}; expected a whole number from 0 to {most}")
    return count


def _groups(arch: str, config: Config) -> list[KV]:
    """Groups of experts, of which llama.cpp scores each by the sum of its two best."""
    if config.get("n_group") is None:
        return []
    count, used, experts = (positive(config, key) for key in ("n_group", "topk_group", "n_routed_experts"))
    if used > count or experts % count or (count > 1 and experts < 2 * count):
        raise ArchitectureError(
            f"config.json: {used} of {count} groups (topk_group, n_group) do not fit {experts} experts"
        )
    if used == count > 1:
        raise ArchitectureError(
            f"config.json: topk_group is {used} of {count} groups (n_group): llama.cpp stops where all are chosen",
            hint=UNGROUPED,
        )
    return [u32(f"{arch}.expert_group_count", count), u32(f"{arch}.expert_group_used_count", used)]


def choice_metadata(arch: str, config: Config, gating: str) -> list[KV]:
    """How the router weighs the experts that it chose.

    Args:
        arch: the GGUF architecture.
        config: config.json.
        gating: how it scores them, of ``GATINGS``.
    """
    return [
        u32(f"{arch}.expert_gating_func", GATINGS[gating]),
        f32(f"{arch}.expert_weights_scale", number(config, "routed_scaling_factor", above=0)),
        boolean(f"{arch}.expert_weights_norm", bool(config.get("norm_topk_prob"))),
    ]


def mixture_rules(config: Config, hidden: int, *, bias: bool = True) -> list[Rule]:
    """The router, the experts and the shared experts, which are one MLP, of one layer.

    Args:
        config: config.json.
        hidden: width of the model.
        bias: the router has one.
    """
    count, inner = positive(config, "n_routed_experts"), positive(config, "moe_intermediate_size")
    shared = positive(config, "n_shared_experts") * inner
    return [
        *expert_rules("mlp", count, GATED, hidden, inner, bias="gate.e_score_correction_bias" if bias else None),
        *gated_mlp(hidden, shared, source="mlp.shared_experts", suffix="_shexp"),
    ]
