"""DeepSeek V2 and V2-Lite: latent attention, a softmax router, shared experts."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, number, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import decoder_metadata, decoder_rules, gated_mlp, vector
from quantkit.arch.deepseek_moe import UNGROUPED, dense_layers, mixture_metadata, mixture_rules
from quantkit.arch.experts import GATINGS
from quantkit.arch.latent_attention import as_one_head, latent_metadata, latent_rules, latent_sizes
from quantkit.arch.rope import YarnGraph, rope, rope_metadata
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, boolean, f32, u32

_ARCH = "deepseek2"
# llama.cpp scales attention by mscale_all_dim itself, and leaves cos and sin alone: mscale must equal it.
_YARN = YarnGraph(log_multiplier=1.0)
# Models in which llama.cpp expects q to come from the residual stream: by their number of layers, and one by its
# vocabulary too.
_DIRECT_QUERIES, _KANANA = (26, 27), (48, 128256)


def metadata(config: Config) -> list[KV]:
    require(config, "topk_method", "greedy", "group_limited_greedy")
    # Without groups both choose alike: llama.cpp scores a group by its two best experts, the model by its best or not.
    require(config, "n_group", 1, hint=UNGROUPED if config.get("topk_method") == "greedy" else "")
    require(config, "scoring_func", "softmax")
    require({"norm_topk_prob": bool(config.get("norm_topk_prob"))}, "norm_topk_prob", False)
    require(config, "mlp_bias", False)
    return deepseek_metadata(config, "softmax")


def deepseek_metadata(config: Config, gating: str, further: int = 0) -> list[KV]:
    """The entries of all models with DeepSeek's attention and experts.

    Args:
        config: config.json.
        gating: how the router scores experts, of ``GATINGS``.
        further: layers behind those that are run.

    Raises:
        ArchitectureError: llama.cpp does not have such a model.
    """
    require(config, "hidden_act", "silu")
    require(config, "attention_bias", False)
    require(config, "moe_layer_freq", 1)
    size, count = latent_sizes(config), layers(config)
    direct = count in _DIRECT_QUERIES or (count, config["vocab_size"]) == _KANANA
    if direct != (size.queries is None):
        raise ArchitectureError(
            f"config.json: q_lora_rank {size.queries} with {count} layers is not supported: llama.cpp tells by the "
            "number of layers whether q is compressed"
        )
    settings = rope(config)
    return [
        *decoder_metadata(_ARCH, {**as_one_head(config), "num_hidden_layers": count + further}),
        *latent_metadata(_ARCH, size),
        *rope_metadata(_ARCH, {**config, "head_dim": size.rotary}, ("yarn",), _YARN),
        *_mscale(settings),
        u32(f"{_ARCH}.vocab_size", positive(config, "vocab_size")),
        *mixture_metadata(_ARCH, config),
        u32(f"{_ARCH}.expert_gating_func", GATINGS[gating]),
        f32(f"{_ARCH}.expert_weights_scale", number(config, "routed_scaling_factor", above=0)),
        *([boolean(f"{_ARCH}.expert_weights_norm", True)] if config.get("norm_topk_prob") else ()),
    ]


def _mscale(settings: Config) -> list[KV]:
    if settings.get("mscale_all_dim") is None:
        return []
    scale = 0.1 * number(settings, "mscale_all_dim", "config.json: rope_scaling", above=0)
    return [f32(f"{_ARCH}.rope.scaling.yarn_log_multiplier", scale)]


def rules(config: Config) -> list[Rule]:
    return deepseek_rules(config, bias=False)


def deepseek_rules(config: Config, *, bias: bool) -> list[Rule]:
    """The tensors of all models with DeepSeek's attention and experts.

    Args:
        config: config.json.
        bias: the routers have one for the choice of experts.
    """
    dense, sparse = deepseek_layers(config, bias=bias)
    count = dense_layers(config)
    return decoder_rules(as_one_head(config), lambda i: dense if i < count else sparse)


def deepseek_layers(config: Config, *, bias: bool) -> tuple[list[Rule], list[Rule]]:
    """The tensors of a dense layer, and those of one with experts."""
    hidden = positive(config, "hidden_size")
    attention = [
        vector("input_layernorm", "attn_norm", hidden),
        *latent_rules(latent_sizes(config)),
        vector("post_attention_layernorm", "ffn_norm", hidden),
    ]
    dense = [*attention, *gated_mlp(hidden, positive(config, "intermediate_size"))]
    return dense, [*attention, *mixture_rules(config, hidden, bias=bias)]


ARCHITECTURE = Architecture(_ARCH, metadata, rules, defaults=CLASS_DEFAULTS["deepseek_v2"], takes_lora=False)
