"""Nemotron-H, Nemotron Nano 2, Nemotron 3: a layer is a state space, attention, an MLP or a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quantkit.arch.base import Architecture, Config, Rule, head_dim, kv_heads, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import Sizes, attention, decoder_rules, linear, sizes, vector
from quantkit.arch.experts import expert_metadata
from quantkit.arch.layer_types import FULL, layer_types
from quantkit.arch.mamba2 import Mamba2, mamba2, mamba2_metadata, mamba2_rules, require_mamba2
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, KVType, array, boolean, f32, u32

_LINEAR, _SPARSE, _DENSE = "linear_attention", "moe", "mlp"
# Other names of the kinds: letters of hybrid_override_pattern, and those of older lists.
_NAMES = {"M": _LINEAR, "*": FULL, "E": _SPARSE, "-": _DENSE, "mamba": _LINEAR, "attention": FULL}
# The settings that list them.
_FILLED_IN = "layers_block_type"
_LISTS = ("hybrid_override_pattern", "layer_types", _FILLED_IN)
_DEFAULTS = CLASS_DEFAULTS["nemotron_h"]
_KEYS = {
    "heads": "mamba_num_heads",
    "head": "mamba_head_dim",
    "groups": "n_groups",
    "state": "ssm_state_size",
    "kernel": "conv_kernel",
}
# llama.cpp's converter writes this for models without positions.
_CONTEXT = 2**20
# transformers lets no step of time be shorter than the model's time_step_min, llama.cpp has no such limit. This is the
# released models', which a step that matters is above.
_TIME_STEP_MIN = 0.001


def _metadata(arch: str) -> Callable[[Config], list[KV]]:
    def metadata(config: Config) -> list[KV]:
        _require(config)
        found, size = _kinds(config), head_dim(config)
        inner = positive(config, "moe_intermediate_size" if _SPARSE in found else "intermediate_size")
        kv = [kv_heads(config) if kind == FULL else 0 for kind in found]
        widths = [inner if kind in (_SPARSE, _DENSE) else 0 for kind in found]
        return [
            u32(f"{arch}.block_count", len(found)),
            u32(f"{arch}.context_length", _CONTEXT),
            u32(f"{arch}.embedding_length", positive(config, "hidden_size")),
            array(f"{arch}.feed_forward_length", widths, KVType.INT32),
            u32(f"{arch}.attention.head_count", positive(config, "num_attention_heads")),
            array(f"{arch}.attention.head_count_kv", kv, KVType.INT32),
            f32(f"{arch}.attention.layer_norm_epsilon", number(config, "layer_norm_epsilon")),
            u32(f"{arch}.attention.key_length", size),
            u32(f"{arch}.attention.value_length", size),
            u32(f"{arch}.vocab_size", positive(config, "vocab_size")),
            u32(
                f"{arch}.rope.dimension_count",
                positive(config, "hidden_size") // positive(config, "num_attention_heads"),
            ),
            boolean(f"{arch}.rope.scaling.finetuned", False),  # no layer has positions
            *mamba2_metadata(arch, _mamba2(config)),
            *(_expert_metadata(arch, config) if _SPARSE in found else ()),
        ]

    return metadata


def _expert_metadata(arch: str, config: Config) -> list[KV]:
    latent = config.get("moe_latent_size")
    return [
        *expert_metadata(arch, config, "n_routed_experts"),
        u32(f"{arch}.expert_feed_forward_length", positive(config, "moe_intermediate_size")),
        u32(f"{arch}.expert_shared_feed_forward_length", positive(config, "moe_shared_expert_intermediate_size")),
        u32(f"{arch}.expert_shared_count", positive(config, "n_shared_experts")),
        boolean(f"{arch}.expert_weights_norm", bool(config.get("norm_topk_prob"))),
        f32(f"{arch}.expert_weights_scale", number(config, "routed_scaling_factor", above=0)),
        u32(f"{arch}.expert_group_count", positive(config, "n_group")),
        u32(f"{arch}.expert_group_used_count", positive(config, "topk_group")),
        *([] if latent is None else [u32(f"{arch}.moe_latent_size", positive(config, "moe_latent_size"))]),
    ]


def _require(config: Config) -> None:
    """Refuse what llama.cpp's graph does not compute."""
    require(config, "mlp_hidden_act", "relu2")
    require(config, "mamba_hidden_act", "silu")
    require(config, "sliding_window")
    require(config, "n_group", 1)
    require(config, "topk_group", 1)
    require(config, "n_shared_experts", 1)
    require(config, "num_nextn_predict_layers", 0)
    for key in ("time_step_min", "mamba_dt_min"):
        if config.get(key) is not None and number(config, key) > _TIME_STEP_MIN:
            require(config, key, f"up to {_TIME_STEP_MIN:g}")
    require_mamba2(config, conv_bias="use_conv_bias", biases=("use_bias", "attention_bias", "mlp_bias"))


def _kinds(config: Config) -> tuple[str, ...]:
    """The kind of each layer; the number of layers is that of the list, whatever the config says.

    Raises:
        ArchitectureError: llama.cpp does not have a kind, or not beside another.
    """
    given = {key: _named(config[key]) for key in _LISTS if config.get(key) is not None}
    if len(given) > 1 and given.get(_FILLED_IN) == _DEFAULTS[_FILLED_IN]:
        del given[_FILLED_IN]
    key, named = next(iter(given.items()))
    if (other := next((other for other in given if given[other] != named), None)) is not None:
        raise ArchitectureError(f"config.json: {key} and {other} list different kinds of layers")
    count = len(named) if isinstance(named, list) else config.get("num_hidden_layers")
    found = layer_types({key: named, "num_hidden_layers": count}, (_LINEAR, FULL, _SPARSE, _DENSE), key=key)
    require({key: _DENSE if {_DENSE, _SPARSE} <= {*found} else None}, key, f"{_SPARSE} without {_DENSE}")
    for kind in (_LINEAR, FULL):  # llama.cpp has memory for both, or ends its process
        require({key: None if kind in found else "".join(found)}, key, f"lists with {kind}")
    return found


def _named(given: Any) -> Any:
    """A list of kinds, or a text with a letter for each layer, with the kinds' names; anything else as it is."""
    return [_NAMES.get(kind, kind) for kind in given] if isinstance(given, (list, str)) else given


def _mamba2(config: Config) -> Mamba2:
    return mamba2(config, _KEYS, positive(config, "mamba_num_heads") * positive(config, "mamba_head_dim"))


def rules(config: Config) -> list[Rule]:
    found = _kinds(config)
    config = {**config, "num_hidden_layers": len(found)}
    size, mamba = sizes(config), _mamba2(config)

    def layer(number: int) -> list[Rule]:
        mixers = {
            _LINEAR: lambda: mamba2_rules("mixer", mamba),
            FULL: lambda: attention(size, module="mixer", interleaved=True),
            _DENSE: lambda: _plain_mlp("mixer", size.hidden, size.inner),
            _SPARSE: lambda: _experts(config, size),
        }
        return [vector("norm", "attn_norm", size.hidden), *mixers[found[number]]()]

    return [
        _in_backbone(rule) for rule in decoder_rules(config, layer, vector("model.norm_f", "output_norm", size.hidden))
    ]


def _plain_mlp(source: str, hidden: int, inner: int, suffix: str = "") -> list[Rule]:
    """An MLP without a gate."""
    return [
        *linear(f"{source}.up_proj", f"ffn_up{suffix}", inner, hidden),
        *linear(f"{source}.down_proj", f"ffn_down{suffix}", hidden, inner),
    ]


def _experts(config: Config, size: Sizes) -> list[Rule]:
    """The router, experts without gates, which may work in a narrower space, and the one that all tokens share."""
    count, inner = positive(config, "n_routed_experts"), positive(config, "moe_intermediate_size")
    latent = config.get("moe_latent_size")
    width = size.hidden if latent is None else positive(config, "moe_latent_size")
    narrow = [
        *linear("mixer.fc1_latent_proj", "ffn_latent_down", width, size.hidden),
        *linear("mixer.fc2_latent_proj", "ffn_latent_up", size.hidden, width),
    ]
    shapes = {"up": (inner, width), "down": (width, inner)}
    return [
        Rule("mixer.gate.weight", "ffn_gate_inp.weight", (count, size.hidden)),
        Rule("mixer.gate.e_score_correction_bias", "exp_probs_b.bias", (count,)),
        *(() if latent is None else narrow),
        *(
            Rule(
                tuple(f"mixer.experts.{expert}.{kind}_proj.weight" for expert in range(count)),
                f"ffn_{kind}_exps.weight",
                (count, *shape),
            )
            for kind, shape in shapes.items()
        ),
        *_plain_mlp(
            "mixer.shared_experts", size.hidden, positive(config, "moe_shared_expert_intermediate_size"), "_shexp"
        ),
    ]


def _in_backbone(rule: Rule) -> Rule:
    """The rule with the names of the checkpoints."""

    def renamed(source: str) -> str:
        return source.replace("model.embed_tokens.", "backbone.embeddings.").replace("model.", "backbone.", 1)

    source = rule.source
    return replace(rule, source=renamed(source) if isinstance(source, str) else tuple(map(renamed, source)))


_SPARSE_MODEL = Architecture("nemotron_h_moe", _metadata("nemotron_h_moe"), rules, defaults=_DEFAULTS)
ARCHITECTURE = Architecture(
    "nemotron_h",
    _metadata("nemotron_h"),
    rules,
    defaults=_DEFAULTS,
    variant=lambda config: _SPARSE_MODEL if _SPARSE in _kinds(config) else None,
)
