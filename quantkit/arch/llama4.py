"""Llama 4's language model: a sigmoid router, an expert that all tokens share, attention within chunks of 8192 tokens.

Every fourth layer attends to all tokens, without rotary embeddings, and there queries grow with the position.
llama.cpp's graph has these numbers built in.
"""

from __future__ import annotations

from quantkit.arch import llama
from quantkit.arch.base import Architecture, Config, Rule, head_dim, layers, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import attention, decoder_rules, gated_mlp, pre_normed, sizes
from quantkit.arch.experts import expert_metadata, transposed_experts
from quantkit.arch.layer_types import FULL
from quantkit.arch.rope_factors import rope_tensors
from quantkit.gguf.kv import KV, u32

_CHUNKED = "chunked_attention"
_CHUNK = 8192
_STEP = 4  # layers 3, 7, 11, ... attend to all tokens
# llama.cpp takes a model with so many experts for Maverick, the only one without norms of q and k.
_WITHOUT_NORMS = 128
_MIXTURE = "feed_forward"
_EXPERTS = "num_local_experts"


def metadata(config: Config) -> list[KV]:
    count = layers(config)
    rotated = [int((i + 1) % _STEP != 0) for i in range(count)]
    # A list without entries means the interval.
    given = config.get("no_rope_layers") or None
    listed = {"no_rope_layers": given[:count] if isinstance(given, list) else given}
    require(listed, "no_rope_layers", rotated)
    if listed["no_rope_layers"] is None:
        require(config, "no_rope_layer_interval", _STEP)
    require({"attention_chunk_size": config.get("attention_chunk_size") or 0}, "attention_chunk_size", _CHUNK)
    require(config, "layer_types", [_CHUNKED if rotates else FULL for rotates in rotated])
    require(
        {**config, "attn_temperature_tuning": bool(config["attn_temperature_tuning"])}, "attn_temperature_tuning", True
    )
    require(config, "floor_scale", _CHUNK)
    require(config, "attn_scale", 0.1)
    require(config, "use_qk_norm", positive(config, _EXPERTS) != _WITHOUT_NORMS)
    require(config, "attention_bias", False)
    require(config, "moe_layers", [i for i in range(count) if _is_sparse(config, i)])
    sized = {**config, "head_dim": head_dim(config), "intermediate_size": positive(config, "intermediate_size_mlp")}
    return [
        *llama.llama_metadata("llama4", sized, ("llama3",)),
        *expert_metadata("llama4", config, _EXPERTS),
        u32("llama4.interleave_moe_layer_step", positive(config, "interleave_moe_layer_step")),
        u32("llama4.expert_feed_forward_length", positive(config, "intermediate_size")),
    ]


def _is_sparse(config: Config, layer: int) -> bool:
    """Whether a layer has experts; another one has a single MLP."""
    return (layer + 1) % positive(config, "interleave_moe_layer_step") == 0


def rules(config: Config) -> list[Rule]:
    size, dense = sizes(config), positive(config, "intermediate_size_mlp")

    def layer(number: int) -> list[Rule]:
        sparse = _is_sparse(config, number)
        mlp = mixture(config) if sparse else gated_mlp(size.hidden, dense, source=_MIXTURE)
        return pre_normed(size, attention(size), mlp)

    return decoder_rules(config, layer)


def mixture(config: Config) -> list[Rule]:
    """The router, the experts, whose matrices are stored transposed, and the expert that all tokens share."""
    count, hidden, inner = (
        positive(config, _EXPERTS),
        positive(config, "hidden_size"),
        positive(config, "intermediate_size"),
    )
    return [
        Rule(f"{_MIXTURE}.router.weight", "ffn_gate_inp.weight", (count, hidden)),
        *(
            transposed_experts(
                f"{_MIXTURE}.experts.gate_up_proj",
                f"ffn_{kind}_exps.weight",
                (count, inner, hidden),
                stored=2 * inner,
                which=range(first, first + inner),
            )
            for kind, first in (("gate", 0), ("up", inner))
        ),
        transposed_experts(f"{_MIXTURE}.experts.down_proj", "ffn_down_exps.weight", (count, hidden, inner)),
        *gated_mlp(hidden, inner, source=f"{_MIXTURE}.shared_expert", suffix="_shexp"),
    ]


ARCHITECTURE = Architecture("llama4", metadata, rules, rope_tensors, defaults=CLASS_DEFAULTS["llama4_text"])
