"""Hunyuan with experts (Hunyuan-A13B): one expert beside the chosen ones, and a tokenizer of tiktoken's kind."""

from __future__ import annotations

from dataclasses import replace

from quantkit.arch.base import Architecture, Config, Rule, head_dim, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import decoder_rules, gated_mlp, pre_normed, sizes
from quantkit.arch.experts import GATED, expert_metadata, expert_rules
from quantkit.arch.hunyuan_dense import hunyuan_attention, hunyuan_metadata
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32
from quantkit.vocab.families import VocabularyRules

_ARCH = "hunyuan-moe"
_COMPUTED = {
    **dict.fromkeys(("use_qk_norm", "use_mixed_mlp_moe", "norm_topk_prob"), True),
    **dict.fromkeys(("use_cla", "mlp_bias"), False),
}


def metadata(config: Config) -> list[KV]:
    for key, computed in _COMPUTED.items():
        require(config, key, computed)
    require(config, "moe_layer_num_skipped", 0)
    require(config, "attention_head_dim", head_dim(config))
    inner = positive(config, "intermediate_size")
    for key, value in (("moe_intermediate_size", inner), ("num_shared_expert", 1)):
        require({key: _of_every_layer(config, key, value)}, key, value)
    used = {**config, "moe_topk": _of_every_layer(config, "moe_topk")}
    return [
        *hunyuan_metadata(_ARCH, config),
        *expert_metadata(_ARCH, used, "num_experts", "moe_topk"),
        u32(f"{_ARCH}.expert_feed_forward_length", inner),
        u32(f"{_ARCH}.expert_shared_feed_forward_length", inner),
        u32(f"{_ARCH}.expert_shared_count", 1),
    ]


def _of_every_layer(config: Config, key: str, default: int | None = None) -> int | None:
    """A number that the config has once or for each layer.

    Raises:
        ArchitectureError: it differs between layers, which GGUF cannot say.
    """
    found = config.get(key)
    if not isinstance(found, list):
        return default if found is None else found
    if len(set(map(str, found))) != 1:
        raise ArchitectureError(f"config.json: {key} is {str(found)[:80]}; expected the same number for every layer")
    return found[0]  # type: ignore[no-any-return]  # checked by who asks


def rules(config: Config) -> list[Rule]:
    size, count = sizes(config), positive(config, "num_experts")
    router, *experts = expert_rules("mlp", count, GATED, size.hidden, size.inner)
    mlp = [
        replace(router, source="mlp.gate.wg.weight"),
        *experts,
        *gated_mlp(size.hidden, size.inner, source="mlp.shared_mlp", suffix="_shexp"),
    ]
    return decoder_rules(config, pre_normed(size, hunyuan_attention(size), mlp))


ARCHITECTURE = Architecture(
    _ARCH,
    metadata,
    rules,
    tokenizers=("tiktoken",),
    vocabulary=VocabularyRules(named={"bos": "<|bos|>"}),
    defaults=CLASS_DEFAULTS["hunyuan_v1_moe"],
)
