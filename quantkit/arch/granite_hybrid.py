"""Granite 4: Mamba-2 with attention in a few layers, or attention alone; dense, or with experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quantkit.arch.base import Architecture, Config, Rule, kv_heads, layers, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import Sizes, decoder_rules, pre_normed, sizes
from quantkit.arch.experts import expert_metadata
from quantkit.arch.granite import granite_metadata
from quantkit.arch.granite_moe import SHARED, granite_attention, mixture, shared_metadata, shared_mlp
from quantkit.arch.layer_types import FULL, by_layer, layer_types
from quantkit.arch.mamba2 import Mamba2, mamba2, mamba2_metadata, mamba2_rules, require_mamba2
from quantkit.gguf.kv import KV, boolean, u32

_LINEAR = "linear_attention"
_NAMES = {"mamba": _LINEAR, "attention": FULL}
_KEYS = {
    "heads": "mamba_n_heads",
    "head": "mamba_d_head",
    "groups": "mamba_n_groups",
    "state": "mamba_d_state",
    "kernel": "mamba_d_conv",
}
# llama.cpp's converter writes this for models without positions.
_CONTEXT = 2**20


def _metadata(arch: str) -> Callable[[Config], list[KV]]:
    def metadata(config: Config) -> list[KV]:
        found = _kinds(config)
        hybrid = _LINEAR in found
        require({"position_embedding_type": config.get("position_embedding_type") or "nope"}, *_positions(hybrid))
        require(config, "mamba_expand", 2)
        require_mamba2(config, conv_bias="mamba_conv_bias", biases=("mamba_proj_bias",))
        context = _CONTEXT if hybrid else positive(config, "max_position_embeddings")
        common = granite_metadata(arch, {**config, "max_position_embeddings": context})
        heads = [kv_heads(config) if kind == FULL else 0 for kind in found]
        return [
            *by_layer(common, f"{arch}.attention.head_count_kv", heads),
            *_expert_metadata(arch, config),
            *shared_metadata(arch, config),
            *mamba2_metadata(arch, _mamba2(config)),
            boolean(f"{arch}.rope.scaling.finetuned", not hybrid),  # whether layers have positions
        ]

    return metadata


def _positions(hybrid: bool) -> tuple[str, str]:
    return "position_embedding_type", "nope" if hybrid else "rope"


def _expert_metadata(arch: str, config: Config) -> list[KV]:
    if _sparse(config):
        return expert_metadata(arch, config, "num_local_experts")
    # llama.cpp has one width for all MLPs, and reads it from the first of the two.
    require(config, "intermediate_size", positive(config, SHARED))
    require(config, "num_experts_per_tok", 0)
    return [u32(f"{arch}.expert_count", 0), u32(f"{arch}.expert_used_count", 0)]


def _sparse(config: Config) -> bool:
    return bool(config.get("num_local_experts"))


def _kinds(config: Config) -> tuple[str, ...]:
    """The kind of each layer, also under the older names; without a list all are state spaces, which nobody trained."""
    given = config.get("layer_types")
    named = [_NAMES.get(kind, kind) for kind in given] if isinstance(given, list) else given
    found = layer_types({**config, "layer_types": named}, (_LINEAR, FULL), [_LINEAR] * layers(config))
    require({"layer_types": None if FULL in found else _LINEAR}, "layer_types", f"lists with {FULL}")
    return found


def _mamba2(config: Config) -> Mamba2:
    return mamba2(config, _KEYS, positive(config, "mamba_expand") * positive(config, "hidden_size"))


def rules(config: Config) -> list[Rule]:
    size, found = sizes(config), _kinds(config)
    heads, mlp, mamba = granite_attention(config, size), _mlp(config, size), mamba2_rules("mamba", _mamba2(config))
    return decoder_rules(config, lambda i: pre_normed(size, heads if found[i] == FULL else mamba, mlp))


def _mlp(config: Config, size: Sizes) -> list[Rule]:
    return mixture(config, size) if _sparse(config) else [*shared_mlp(size.hidden, positive(config, SHARED))]


def _variant(config: Config) -> Architecture | None:
    """Models with attention alone are the older architectures."""
    if _LINEAR in _kinds(config):
        return None
    name = "granitemoe" if _sparse(config) else "granite"
    return replace(ARCHITECTURE, name=name, metadata=_metadata(name))


ARCHITECTURE = Architecture(
    "granitehybrid",
    _metadata("granitehybrid"),
    rules,
    defaults=CLASS_DEFAULTS["granitemoehybrid"],
    variant=_variant,
)
