"""LFM2 and LFM2.5: short convolutions, with attention in a few layers."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.arch.base import Architecture, Config, Rule, kv_heads, layers, number, positive
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import (
    Sizes,
    attention,
    decoder_metadata,
    decoder_rules,
    linear,
    require_plain_heads,
    sizes,
    vector,
)
from quantkit.arch.layer_types import FULL, by_layer, layer_types
from quantkit.arch.rope import rope_metadata
from quantkit.arch.shortconv import shortconv, shortconv_metadata
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32

CONV = "conv"
# The names of Liquid's own code, which transformers reads first.
OLDER_NAMES = {"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"}


def metadata(config: Config) -> list[KV]:
    return lfm2_metadata("lfm2", {**config, "intermediate_size": _inner(config)})


def lfm2_metadata(arch: str, config: Config) -> list[KV]:
    """The entries of dense models and of those with experts."""
    require_plain_heads(config)
    common = decoder_metadata(arch, {**config, "head_dim": None, "rms_norm_eps": number(config, "norm_eps")})
    heads = [kv_heads(config) if kind == FULL else 0 for kind in kinds(config)]
    return [
        *by_layer(common, f"{arch}.attention.head_count_kv", heads),
        *rope_metadata(arch, config, ("linear", "yarn")),
        u32(f"{arch}.vocab_size", positive(config, "vocab_size")),
        *shortconv_metadata(arch, config),
    ]


def kinds(config: Config) -> tuple[str, ...]:
    """The kind of each layer; older configs list only the layers with attention."""
    count = layers(config)
    full = config.get("full_attn_idxs")
    if not isinstance(full, list | None):
        raise ArchitectureError(f"config.json: full_attn_idxs is {repr(full)[:120]}; expected a list of layers")
    return layer_types(config, (CONV, FULL), [FULL if full is None or i in full else CONV for i in range(count)])


def _inner(config: Config) -> int:
    """Width inside the MLP: by default two thirds of what the config says, in multiples."""
    inner = positive(config, "intermediate_size")
    if not config.get("block_auto_adjust_ff_dim"):
        return inner
    multiple = positive(config, "block_multiple_of")
    inner = int(number(config, "block_ffn_dim_multiplier", above=0) * int(2 * inner / 3))
    return multiple * ((inner + multiple - 1) // multiple)


def mixer(config: Config, size: Sizes, kind: str, mlp: Sequence[Rule]) -> list[Rule]:
    """A layer of one kind, with its MLP."""
    heads = [
        *attention(size, output="out_proj"),
        vector("self_attn.q_layernorm", "attn_q_norm", size.head),
        vector("self_attn.k_layernorm", "attn_k_norm", size.head),
    ]
    return [
        vector("operator_norm", "attn_norm", size.hidden),
        *(heads if kind == FULL else shortconv(config)),
        vector("ffn_norm", "ffn_norm", size.hidden),
        *mlp,
    ]


def dense_mlp(hidden: int, inner: int) -> list[Rule]:
    """The MLP of a layer without experts."""
    return [
        *linear("feed_forward.w1", "ffn_gate", inner, hidden),
        *linear("feed_forward.w3", "ffn_up", inner, hidden),
        *linear("feed_forward.w2", "ffn_down", hidden, inner),
    ]


def last_norm(size: Sizes) -> Rule:
    """The norm before the output head, under the name that llama.cpp gave it by mistake."""
    return vector("model.embedding_norm", "token_embd_norm", size.hidden)


def rules(config: Config) -> list[Rule]:
    size, found = sizes(config), kinds(config)
    mlp = dense_mlp(size.hidden, _inner(config))
    return decoder_rules(config, lambda i: mixer(config, size, found[i], mlp), last_norm(size))


ARCHITECTURE = Architecture("lfm2", metadata, rules, defaults=CLASS_DEFAULTS["lfm2"], older_names=OLDER_NAMES)
