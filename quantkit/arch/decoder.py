"""The parts of dense decoders: metadata of their sizes, and blocks of tensors.

A family lists the parts of one layer, with names relative to the layer; :func:`decoder_rules` repeats them for every
layer and adds the embedding and the output head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from quantkit.arch.base import Arrange, Config, Rule, head_dim, kv_heads, layers, number, positive
from quantkit.errors import ArchitectureError
from quantkit.gguf.header import EMBEDDING, OUTPUT
from quantkit.gguf.kv import KV, f32, u32

# The settings with the epsilon of each kind of norm, and llama.cpp's keys for them.
RMS_NORM = ("rms_norm_eps", "attention.layer_norm_rms_epsilon")
LAYER_NORM = ("layer_norm_eps", "attention.layer_norm_epsilon")


@dataclass(frozen=True)
class Sizes:
    """Rows and columns of a decoder's matrices.

    Attributes:
        hidden: width of the residual stream.
        inner: width inside the MLP.
        vocabulary: rows of the embedding.
        head: dimensions of an attention head.
        queries: rows of q: number of its heads times ``head``.
        keys: rows of k, and of v.
    """

    hidden: int
    inner: int
    vocabulary: int
    head: int
    queries: int
    keys: int


def sizes(config: Config, inner: str = "intermediate_size") -> Sizes:
    """The sizes in a config.

    Args:
        config: config.json.
        inner: the setting that is the width inside the MLP, or inside an expert where every MLP is a mixture.

    Raises:
        ArchitectureError: a size is missing, or the sizes do not fit together.
    """
    heads, kv, size = positive(config, "num_attention_heads"), kv_heads(config), head_dim(config)
    if heads % kv:
        raise ArchitectureError(f"config.json: {heads} attention heads are not a multiple of {kv} key/value heads")
    return Sizes(
        hidden=positive(config, "hidden_size"),
        inner=positive(config, inner),
        vocabulary=positive(config, "vocab_size"),
        head=size,
        queries=heads * size,
        keys=kv * size,
    )


def decoder_metadata(arch: str, config: Config, *, norm: tuple[str, str] = RMS_NORM, dense: bool = True) -> list[KV]:
    """The entries that every decoder has, in the order of llama.cpp's converter, without the rotary ones.

    Args:
        arch: the GGUF architecture.
        config: config.json.
        norm: the kind of its norms.
        dense: layers have an MLP beside or instead of experts, so its width must be there.
    """
    epsilon, key = norm
    mlp = dense or config.get("intermediate_size") is not None
    return [
        u32(f"{arch}.block_count", layers(config)),
        u32(f"{arch}.context_length", positive(config, "max_position_embeddings")),
        u32(f"{arch}.embedding_length", positive(config, "hidden_size")),
        *([u32(f"{arch}.feed_forward_length", positive(config, "intermediate_size"))] if mlp else ()),
        u32(f"{arch}.attention.head_count", positive(config, "num_attention_heads")),
        u32(f"{arch}.attention.head_count_kv", kv_heads(config)),
        f32(f"{arch}.{key}", number(config, epsilon)),
        *(head_metadata(arch, config) if config.get("head_dim") is not None else ()),
    ]


def head_metadata(arch: str, config: Config) -> list[KV]:
    """The size of an attention head; without it llama.cpp divides the hidden size by the number of heads."""
    size = head_dim(config)
    return [u32(f"{arch}.attention.key_length", size), u32(f"{arch}.attention.value_length", size)]


def require_plain_heads(config: Config) -> None:
    """Refuse a ``head_dim`` other than the hidden size divided by the number of heads, which llama.cpp uses."""
    if (size := head_dim(config)) != head_dim({**config, "head_dim": None}):
        raise ArchitectureError(
            f"config.json: head_dim {size} is not supported for this model: llama.cpp uses "
            "hidden_size / num_attention_heads"
        )


def decoder_rules(
    config: Config, layer: Sequence[Rule] | Callable[[int], Sequence[Rule]], last_norm: Rule | None = None
) -> list[Rule]:
    """The tensors of a decoder.

    Args:
        config: config.json.
        layer: the tensors of every layer, or a function from a layer's number to its tensors, with names without
            ``model.layers.N.`` and ``blk.N.``.
        last_norm: the norm before the output head, if it is not called as usual.
    """
    tensors = layer if callable(layer) else lambda i: layer
    tied = bool(config.get("tie_word_embeddings", False))
    shape = positive(config, "vocab_size"), positive(config, "hidden_size")
    return [
        Rule("model.embed_tokens.weight", EMBEDDING, shape),
        *(in_layer(rule, i) for i in range(layers(config)) for rule in tensors(i)),
        last_norm or vector("model.norm", "output_norm", shape[1]),
        Rule("lm_head.weight", OUTPUT, shape, optional=tied),
    ]


def in_layer(rule: Rule, number: int, before: str | None = None) -> Rule:
    """The tensor of one layer, from a rule with names relative to the layer.

    Args:
        rule: of the layer.
        number: of the layer.
        before: what its sources begin with; by default ``model.layers.N.``.
    """
    before, target = before or f"model.layers.{number}.", f"blk.{number}.{rule.target}"
    if isinstance(rule.source, str):
        return replace(rule, source=before + rule.source, target=target)
    return replace(rule, source=tuple(before + source for source in rule.source), target=target)


def vector(source: str, target: str, size: int) -> Rule:
    """The weight of a norm."""
    return Rule(f"{source}.weight", f"{target}.weight", (size,))


def biased(source: str, target: str, size: int) -> list[Rule]:
    """The weight and the bias of a norm."""
    return [vector(source, target, size), Rule(f"{source}.bias", f"{target}.bias", (size,))]


def linear(
    source: str,
    target: str,
    rows: int,
    columns: int,
    *,
    bias: bool = False,
    arrange: Arrange | None = None,
    unit: int = 1,
) -> list[Rule]:
    """A matrix, and its bias with *bias*."""
    rules = [Rule(f"{source}.weight", f"{target}.weight", (rows, columns), arrange, unit)]
    if bias:
        rules.append(Rule(f"{source}.bias", f"{target}.bias", (rows,), arrange, unit))
    return rules


def attention(
    size: Sizes,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    interleaved: bool = False,
    output: str = "o_proj",
    module: str = "self_attn",
) -> list[Rule]:
    """The four matrices of attention.

    Args:
        size: sizes of the model.
        qkv_bias: q, k and v have biases.
        output_bias: o has one.
        interleaved: llama.cpp rotates neighboring elements in this family, so the rows of q and k are reordered.
        output: the checkpoint's name of the output matrix.
        module: its name of the module.
    """

    def heads(name: str, rows: int) -> list[Rule]:
        arrange, unit = (lambda values: interleave_halves(values, size.head), size.head) if interleaved else (None, 1)
        source, target = f"{module}.{name}_proj", f"attn_{name}"
        return linear(source, target, rows, size.hidden, bias=qkv_bias, arrange=arrange, unit=unit)

    return [
        *heads("q", size.queries),
        *heads("k", size.keys),
        *linear(f"{module}.v_proj", "attn_v", size.keys, size.hidden, bias=qkv_bias),
        *linear(f"{module}.{output}", "attn_output", size.hidden, size.queries, bias=output_bias),
    ]


def head_norms(rows: int, columns: int | None = None) -> list[Rule]:
    """Norms of q and k.

    Args:
        rows: size of q's norm.
        columns: size of k's norm, if it is different.
    """
    return [
        vector("self_attn.q_norm", "attn_q_norm", rows),
        vector("self_attn.k_norm", "attn_k_norm", rows if columns is None else columns),
    ]


def gated_mlp(hidden: int, inner: int, *, bias: bool = False, source: str = "mlp", suffix: str = "") -> list[Rule]:
    """Gate, up and down matrices of a gated MLP, from the module *source*; their GGUF names end with *suffix*."""
    return [
        *linear(f"{source}.gate_proj", f"ffn_gate{suffix}", inner, hidden, bias=bias),
        *linear(f"{source}.up_proj", f"ffn_up{suffix}", inner, hidden, bias=bias),
        *linear(f"{source}.down_proj", f"ffn_down{suffix}", hidden, inner, bias=bias),
    ]


def pre_normed(size: Sizes, attention: Iterable[Rule], mlp: Iterable[Rule]) -> list[Rule]:
    """A layer with one norm before attention and one before the MLP, as in most families."""
    return [
        vector("input_layernorm", "attn_norm", size.hidden),
        *attention,
        vector("post_attention_layernorm", "ffn_norm", size.hidden),
        *mlp,
    ]


def post_normed(size: Sizes, attention: Iterable[Rule]) -> list[Rule]:
    """A layer with one norm after attention and one after the gated MLP, and none before."""
    return [
        *attention,
        vector("post_attention_layernorm", "post_attention_norm", size.hidden),
        *gated_mlp(size.hidden, size.inner),
        vector("post_feedforward_layernorm", "post_ffw_norm", size.hidden),
    ]


def interleave_halves(rows: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Reorder whole q or k heads from transformers' rotary order (two halves) to ggml's (adjacent pairs).

    Row ``half * size/2 + i`` of a head becomes row ``2 * i + half``: transformers rotates element i with element
    i + size/2 (``rotate_half``), ggml's "norm" rope rotates neighboring elements.

    Args:
        rows: shape [heads * size, ...].
        size: rows of a head.
    """
    heads = rows.shape[0] // size
    return rows.reshape(heads, 2, size // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
