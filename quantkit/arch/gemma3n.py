"""Gemma 3n, the language model: four copies of the residual stream, of which each layer computes one.

Alternating updates (AltUp) predict the other three; a low-rank residual (Laurel) runs beside attention; the first
layers keep only the largest activations of their MLP, and the last ones have no keys and values of their own.
llama.cpp's graph has the numbers of the two published models in it, so most of them can have no other value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quantkit.arch import altup, per_layer_embeddings
from quantkit.arch.altup import COPIES, altup_rules, laurel_rules, stream_rules
from quantkit.arch.base import Architecture, Config, Generated, Rule, layers, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_metadata, decoder_rules, head_norms, in_layer, sizes
from quantkit.arch.gemma3 import local_base
from quantkit.arch.gemma_layers import TOKENIZERS, four_norms
from quantkit.arch.layer_types import FULL, WINDOW, by_layer, layer_types
from quantkit.arch.per_layer_embeddings import embedding_rules, layer_rules, per_layer_size
from quantkit.arch.rope import check_scaling, rope, rope_base
from quantkit.arch.shared_keys import first_shared
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, KVType, array, f32, u32

_PERIOD = 5
# What llama.cpp's graph has as constants: the number of layers with keys of their own, and of layers that keep only a
# part of their activations; that part; the width of a layer's embedding, and the cap of the logits.
_OWN_KEYS, _SPARSE, _SPARSITY, _PER_LAYER, _CAP = 20, 10, 0.95, 256, 30.0
# Rows of the embedding behind those of the table for each layer, at most.
_PICTURES_AND_SOUND = 256
_KEYS = ("attn_k", "attn_v")
# By sparsity, how many standard deviations above the mean an activation must be: the normal distribution's quantile.
_QUANTILES = {0.0: float("-inf"), _SPARSITY: 1.6448535919189453}


def _kinds(config: Config) -> tuple[str, ...]:
    return layer_types(config, (FULL, WINDOW), [WINDOW if (i + 1) % _PERIOD else FULL for i in range(layers(config))])


def _inner(config: Config) -> int:
    """Width of the MLP, which transformers writes for each layer."""
    given = config.get("intermediate_size")
    if isinstance(given, list) and given and len(given) == layers(config) and len(set(map(str, given))) == 1:
        given = given[0]
    return positive({"intermediate_size": given}, "intermediate_size")


def _plain(config: Config) -> Config:
    """The config with one width for all layers."""
    return {**config, "intermediate_size": _inner(config)}


def _own_keys(config: Config, kinds: Sequence[str]) -> int:
    """The number of layers with keys and values of their own.

    Raises:
        ArchitectureError: llama.cpp assumes another number.
    """
    first = first_shared(config, kinds)
    if first != min(_OWN_KEYS, len(kinds)):
        raise ArchitectureError(
            f"config.json: num_kv_shared_layers {len(kinds) - first} is not supported for this model: in llama.cpp all "
            f"layers after the first {_OWN_KEYS} share keys and values"
        )
    return first


def _sparsity(config: Config) -> list[float]:
    """The sparsity of every layer.

    Raises:
        ArchitectureError: llama.cpp has another one.
    """
    count = layers(config)
    usual = [_SPARSITY] * min(_SPARSE, count) + [0.0] * (count - _SPARSE)
    # transformers' default for models with fewer layers is none.
    given = config.get("activation_sparsity_pattern") or (usual if count > _SPARSE else [0.0] * count)
    if given != usual:
        raise ArchitectureError(
            f"config.json: activation_sparsity_pattern {str(given)[:120]} is not supported for this model: llama.cpp "
            f"has {_SPARSITY} in the first {_SPARSE} layers and 0 in the others"
        )
    return usual


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_activation", "gelu_pytorch_tanh")
    require(config, "attention_bias", False)
    require(config, "altup_num_inputs", COPIES)
    require(config, "altup_active_idx", 0)
    require(config, "altup_correct_scale", True)
    require(config, "laurel_rank", 64)
    require({"hidden_size_per_layer_input": per_layer_size(config)}, "hidden_size_per_layer_input", _PER_LAYER)
    require({"final_logit_softcapping": config.get("final_logit_softcapping") or 0}, "final_logit_softcapping", _CAP)
    kinds, settings = _kinds(config), rope(config, FULL)
    check_scaling(settings, ())
    require(settings, "partial_rotary_factor", 1)
    own = _own_keys(config, kinds)
    plain = decoder_metadata("gemma3n", _plain(config))
    return [
        *by_layer(plain, "gemma3n.feed_forward_length", [_inner(config)] * len(kinds)),
        f32("gemma3n.rope.freq_base", rope_base(settings)),
        f32("gemma3n.rope.freq_base_swa", local_base(config)),
        f32("gemma3n.final_logit_softcapping", number(config, "final_logit_softcapping", above=0)),
        u32("gemma3n.attention.sliding_window", positive(config, "sliding_window")),
        array("gemma3n.attention.sliding_window_pattern", [kind == WINDOW for kind in kinds], KVType.BOOL),
        u32("gemma3n.attention.shared_kv_layers", len(kinds) - own),
        u32("gemma3n.altup.active_idx", 0),
        u32("gemma3n.altup.num_inputs", COPIES),
        u32("gemma3n.embedding_length_per_layer_input", _PER_LAYER),
        array("gemma3n.activation_sparsity_scale", [_QUANTILES[one] for one in _sparsity(config)], KVType.FLOAT32),
    ]


def rules(config: Config) -> list[Rule]:
    plain, own = _plain(config), _own_keys(config, _kinds(config))
    size = sizes(plain)

    def layer(i: int) -> list[Rule]:
        heads = [*attention(size), *head_norms(size.head)]
        return [
            *four_norms(size, [rule if i < own else _idle(rule) for rule in heads]),
            *altup_rules(size.hidden),
            *laurel_rules(size.hidden, positive(config, "laurel_rank")),
            *layer_rules(config),
        ]

    return [
        *decoder_rules(plain, layer),
        *embedding_rules(config, further=_PICTURES_AND_SOUND),
        *stream_rules(size.hidden),
    ]


def _idle(rule: Rule) -> Rule:
    return replace(rule, optional=True, idle=True) if rule.target.startswith(_KEYS) else rule


def generated(config: Config) -> list[Generated]:
    """Keys and values of the layers that use those of others: zeros, which nobody reads.

    llama.cpp does not load a file without them; published checkpoints have some, what transformers saves has none.
    """
    kinds, size = _kinds(config), sizes(_plain(config))
    return [
        Generated(rule.target, np.broadcast_to(np.float32(0), rule.shape))
        for i in range(_own_keys(config, kinds), len(kinds))
        for rule in (in_layer(rule, i) for rule in [*attention(size), *head_norms(size.head)])
        if rule.target.removeprefix(f"blk.{i}.").startswith(_KEYS)
    ]


def notes(config: Config) -> list[str]:
    """A note about tokens that have no row in the table of embeddings for each layer."""
    first, rows = positive(config, "vocab_size_per_layer_input"), positive(config, "vocab_size")
    if first == rows:
        return []
    return [
        f"tokens from {first} on, which stand for pictures and sound, have no embeddings for each layer: where a text "
        "has one, transformers takes those of token 0, llama.cpp zeros"
    ]


ARCHITECTURE = Architecture(
    "gemma3n",
    metadata,
    rules,
    generated,
    TOKENIZERS,
    defaults=CLASS_DEFAULTS["gemma3n_text"],
    notes=notes,
    without_lora=(*altup.WITHOUT_LORA, *per_layer_embeddings.WITHOUT_LORA),
)
