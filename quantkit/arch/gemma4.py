"""Gemma 4, the language model: dense or with experts, with embeddings for each layer, or keys that are values too.

Layers with the whole context have larger heads than those with a sliding window, and rotate only a part of them. The
last layers of the small models have no keys and values of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantkit.arch.base import Architecture, Config, Generated, Rule, kv_heads, layers, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import Sizes, decoder_metadata, decoder_rules, gated_mlp, linear, sizes, vector
from quantkit.arch.experts import expert_metadata
from quantkit.arch.layer_types import FULL, WINDOW, by_layer, layer_types
from quantkit.arch.per_layer_embeddings import WITHOUT_LORA, embedding_rules, layer_rules, per_layer_size
from quantkit.arch.rope import check_scaling, rope, rope_base
from quantkit.arch.shared_keys import first_shared
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, KVType, array, f32, u32
from quantkit.vocab.families import VocabularyRules

TOKENIZERS = ("gemma4",)
VOCABULARY = VocabularyRules(adds_bos=True)
_GELU = "gelu_pytorch_tanh"
_PERIOD = 6
# transformers' defaults, which its config class turns into per_layer_config.
_FULL_HEAD = 512
_FULL_ROPE = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
# A divisor that makes a frequency zero: the element is not rotated.
_NEVER = 1e30


@dataclass(frozen=True)
class _Layers:
    """The sizes of the layers.

    Attributes:
        kinds: of every layer.
        sliding, full: sizes of the layers of either kind.
        first_shared: the first layer without keys and values of its own.
        keys_are_values: full layers have no values of their own.
        wide: layers without keys of their own have an MLP of twice the width.
    """

    kinds: Sequence[str]
    sliding: Sizes
    full: Sizes
    first_shared: int
    keys_are_values: bool
    wide: bool

    def size(self, layer: int) -> Sizes:
        size = self.full if self.kinds[layer] == FULL else self.sliding
        return replace(size, inner=2 * size.inner) if self.wide and layer >= self.first_shared else size


def _read(config: Config) -> _Layers:
    usual = [FULL if (i + 1) % _PERIOD == 0 else WINDOW for i in range(layers(config))]
    kinds = layer_types(config, (FULL, WINDOW), [*usual[:-1], FULL])
    if kinds[-1] != FULL:
        raise ArchitectureError(
            f"config.json: the last of layer_types is {WINDOW}: transformers makes it {FULL}",
            hint=f"write {FULL} there if the model was trained so",
        )
    keys = _full_kv_heads(config, kinds) or kv_heads(config)
    return _Layers(
        kinds,
        sliding=sizes(config),
        full=sizes({**config, "num_key_value_heads": keys, "head_dim": _full_head(config, kinds)}),
        first_shared=first_shared(config, kinds),
        keys_are_values=bool(config.get("attention_k_eq_v", False)),
        wide=bool(config.get("use_double_wide_mlp", False)),
    )


def _full_head(config: Config, kinds: Sequence[str]) -> int:
    """The size of an attention head in layers of kind full."""
    if config.get("per_layer_config") is not None:
        return positive({"head_dim": config.get("head_dim"), **_full_layers(config, kinds)}, "head_dim")
    return positive({"global_head_dim": _FULL_HEAD, **config}, "global_head_dim")


def _full_kv_heads(config: Config, kinds: Sequence[str]) -> int | None:
    """The number of key/value heads in layers of kind full; None for that of all layers."""
    if config.get("per_layer_config") is not None:
        given = _full_layers(config, kinds)
        if unknown := sorted(given.keys() - {"head_dim", "num_key_value_heads"}):
            raise ArchitectureError(f"config.json: per_layer_config has {unknown[0]!r}, which llama.cpp does not have")
        return positive(given, "num_key_value_heads") if given.get("num_key_value_heads") is not None else None
    key = "num_global_key_value_heads"
    if config.get(key) is None or not config.get("attention_k_eq_v"):  # transformers does not read it then
        return None
    return positive(config, key)


def _full_layers(config: Config, kinds: Sequence[str]) -> Mapping[str, Any]:
    """The settings in ``per_layer_config``, where transformers 5 writes what only the layers of kind full have.

    Raises:
        ArchitectureError: it has settings for other layers, or not the same for all of them.
    """
    given = config.get("per_layer_config")
    if given is None:
        return {}
    full = {i for i, kind in enumerate(kinds) if kind == FULL}
    # The keys are numbers, with zeros before them so that they sort.
    entries = {int(key): value for key, value in given.items() if key.isdecimal()} if isinstance(given, Mapping) else {}
    first: Any = next(iter(entries.values()), {})
    if entries.keys() != full or not isinstance(first, Mapping) or any(entry != first for entry in entries.values()):
        raise ArchitectureError(
            f"config.json: per_layer_config is {str(given)[:120]}; llama.cpp supports only the same settings for all "
            f"layers of kind {FULL}"
        )
    return first


def _full_rope(config: Config) -> Config:
    settings = rope(config, FULL) if config.get("rope_parameters") or config.get("rope_scaling") else _FULL_ROPE
    check_scaling(settings, ("proportional",))
    require({"rope_type": settings.get("rope_type", "default")}, "rope_type", "proportional")
    require(settings, "factor", 1)
    return settings


def _sliding_base(config: Config) -> float:
    nested = config.get("rope_parameters") or {}
    local = nested.get(WINDOW) or {} if isinstance(nested, dict) else {}
    check_scaling(rope({"rope_parameters": local}), ())
    require(local, "partial_rotary_factor", 1)
    return rope_base(local)


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_activation", _GELU)
    require(config, "attention_bias", False)
    of = _read(config)
    cap, every = config.get("final_logit_softcapping"), [of.size(i) for i in range(len(of.kinds))]
    plain = decoder_metadata("gemma4", {**config, "head_dim": of.full.head})
    if _full_kv_heads(config, of.kinds) is not None:
        plain = by_layer(plain, "gemma4.attention.head_count_kv", [size.keys // size.head for size in every])
    if of.wide:
        plain = by_layer(plain, "gemma4.feed_forward_length", [size.inner for size in every])
    return [
        *plain,
        f32("gemma4.rope.freq_base", rope_base(_full_rope(config))),
        f32("gemma4.rope.freq_base_swa", _sliding_base(config)),
        *([f32("gemma4.final_logit_softcapping", number(config, "final_logit_softcapping", above=0))] if cap else []),
        u32("gemma4.attention.sliding_window", positive(config, "sliding_window")),
        u32("gemma4.attention.shared_kv_layers", len(of.kinds) - of.first_shared),
        u32("gemma4.embedding_length_per_layer_input", per_layer_size(config)),
        array("gemma4.attention.sliding_window_pattern", [kind == WINDOW for kind in of.kinds], KVType.BOOL),
        u32("gemma4.attention.key_length_swa", of.sliding.head),
        u32("gemma4.attention.value_length_swa", of.sliding.head),
        u32("gemma4.rope.dimension_count", of.full.head),
        u32("gemma4.rope.dimension_count_swa", of.sliding.head),
        *(_expert_metadata(config) if config.get("enable_moe_block") else []),
    ]


def _expert_metadata(config: Config) -> list[KV]:
    return [
        *expert_metadata("gemma4", config, "num_experts", per_token="top_k_experts"),
        u32("gemma4.expert_feed_forward_length", positive(config, "moe_intermediate_size")),
    ]


def rules(config: Config) -> list[Rule]:
    of, hidden = _read(config), sizes(config).hidden

    def layer(i: int) -> list[Rule]:
        return [
            *_attention(of, i),
            vector("post_attention_layernorm", "post_attention_norm", hidden),
            vector("pre_feedforward_layernorm", "ffn_norm", hidden),
            *gated_mlp(hidden, of.size(i).inner),
            vector("post_feedforward_layernorm", "post_ffw_norm", hidden),
            *(_experts(config, hidden) if config.get("enable_moe_block") else []),
            *layer_rules(config),
            Rule("layer_scalar", "layer_output_scale.weight", (1,)),
        ]

    return [*decoder_rules(config, layer), *embedding_rules(config)]


def _attention(of: _Layers, i: int) -> list[Rule]:
    """The tensors of attention; in layers that use other layers' keys and values, nobody reads those they have."""
    size, shared = of.size(i), i >= of.first_shared
    values = not (of.keys_are_values and of.kinds[i] == FULL)
    keys = [
        *linear("self_attn.k_proj", "attn_k", size.keys, size.hidden),
        vector("self_attn.k_norm", "attn_k_norm", size.head),
        *(linear("self_attn.v_proj", "attn_v", size.keys, size.hidden) if values else []),
    ]
    return [
        vector("input_layernorm", "attn_norm", size.hidden),
        *linear("self_attn.q_proj", "attn_q", size.queries, size.hidden),
        vector("self_attn.q_norm", "attn_q_norm", size.head),
        *(replace(rule, optional=shared, idle=shared) for rule in keys),
        *linear("self_attn.o_proj", "attn_output", size.hidden, size.queries),
    ]


def _experts(config: Config, hidden: int) -> list[Rule]:
    """The router and the experts beside the MLP; a checkpoint has each kind of matrix of a layer as one tensor."""
    count, inner = positive(config, "num_experts"), positive(config, "moe_intermediate_size")
    return [
        vector("pre_feedforward_layernorm_2", "pre_ffw_norm_2", hidden),
        vector("post_feedforward_layernorm_1", "post_ffw_norm_1", hidden),
        vector("post_feedforward_layernorm_2", "post_ffw_norm_2", hidden),
        Rule("router.proj.weight", "ffn_gate_inp.weight", (count, hidden)),
        Rule("router.scale", "ffn_gate_inp.scale", (hidden,)),
        Rule("router.per_expert_scale", "ffn_down_exps.scale", (count,)),
        Rule("experts.gate_up_proj", "ffn_gate_up_exps.weight", (count, 2 * inner, hidden)),
        Rule("experts.down_proj", "ffn_down_exps.weight", (count, hidden, inner)),
    ]


def generated(config: Config) -> list[Generated]:
    """``rope_freqs.weight``: the divisors of the frequencies in layers with the whole context, shape [head / 2].

    transformers rotates the first elements of both halves of a head ("proportional"); llama.cpp rotates all of them,
    by frequencies that are zero for the rest.
    """
    head = _read(config).full.head
    rotated = int(number({"partial_rotary_factor": 1.0, **_full_rope(config)}, "partial_rotary_factor") * head / 2)
    if not 0 < rotated <= head // 2:
        raise ArchitectureError(f"config.json: partial_rotary_factor rotates {2 * rotated} elements of {head}")
    return [Generated("rope_freqs.weight", np.array([1.0] * rotated + [_NEVER] * (head // 2 - rotated), np.float32))]


ARCHITECTURE = Architecture(
    "gemma4",
    metadata,
    rules,
    generated,
    TOKENIZERS,
    VOCABULARY,
    defaults=CLASS_DEFAULTS["gemma4_text"],
    causal_masks=(False, "vision"),
    without_lora=WITHOUT_LORA,
)
