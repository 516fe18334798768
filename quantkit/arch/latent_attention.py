"""Attention whose keys and values come from one compressed vector a token (MLA, DeepSeek V2, arXiv:2405.04434).

llama.cpp keeps that vector in its cache, so all heads share one key: q is multiplied by the transpose of what would
make keys of the vector, and the result of attention by what would make values. ``kv_b_proj`` has both for one head
after the other; GGUF has them as two stacks, the former transposed.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.arch.base import Config, Rule, positive
from quantkit.arch.decoder import linear, vector
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32


@dataclass(frozen=True)
class LatentSizes:
    """Rows and columns of the matrices.

    Attributes:
        hidden: width of the residual stream.
        heads: number of heads.
        plain: dimensions of a head of q and k that are not rotated.
        rotary: dimensions that are; all heads share those of k.
        value: dimensions of a head of v.
        latent: size of the compressed vector.
        queries: size of the vector that q comes from; None if q comes from the residual stream.
    """

    hidden: int
    heads: int
    plain: int
    rotary: int
    value: int
    latent: int
    queries: int | None


def latent_sizes(config: Config) -> LatentSizes:
    """The sizes in a config.

    Raises:
        ArchitectureError: a size is missing, or the number of rotated dimensions is odd.
    """
    rotary = positive(config, "qk_rope_head_dim")
    if rotary % 2:
        raise ArchitectureError(f"config.json: qk_rope_head_dim is {rotary}; rotary embeddings need an even size")
    return LatentSizes(
        hidden=positive(config, "hidden_size"),
        heads=positive(config, "num_attention_heads"),
        plain=positive(config, "qk_nope_head_dim"),
        rotary=rotary,
        value=positive(config, "v_head_dim"),
        latent=positive(config, "kv_lora_rank"),
        queries=positive(config, "q_lora_rank") if config.get("q_lora_rank") is not None else None,
    )


def as_one_head(config: Config) -> Config:
    """The config for the functions of :mod:`quantkit.arch.decoder`: attention is over one head of keys."""
    return {**config, "num_key_value_heads": 1, "head_dim": None}


def latent_metadata(arch: str, size: LatentSizes) -> list[KV]:
    """The sizes, beside those of :func:`as_one_head`."""
    return [
        *([u32(f"{arch}.attention.q_lora_rank", size.queries)] if size.queries is not None else ()),
        u32(f"{arch}.attention.kv_lora_rank", size.latent),
        u32(f"{arch}.attention.key_length", size.latent + size.rotary),
        u32(f"{arch}.attention.value_length", size.latent),
        u32(f"{arch}.attention.key_length_mla", size.plain + size.rotary),
        u32(f"{arch}.attention.value_length_mla", size.value),
        u32(f"{arch}.rope.dimension_count", size.rotary),
    ]


def query_rules(size: LatentSizes) -> list[Rule]:
    """The matrices that make q."""
    rows = size.heads * (size.plain + size.rotary)
    if size.queries is None:
        return linear("self_attn.q_proj", "attn_q", rows, size.hidden)
    return [
        *linear("self_attn.q_a_proj", "attn_q_a", size.queries, size.hidden),
        vector("self_attn.q_a_layernorm", "attn_q_a_norm", size.queries),
        *linear("self_attn.q_b_proj", "attn_q_b", rows, size.queries),
    ]


def compression_rules(size: LatentSizes) -> list[Rule]:
    """The matrix that makes the compressed vector and the rotated part of k, and the vector's norm."""
    return [
        *linear("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", size.latent + size.rotary, size.hidden),
        vector("self_attn.kv_a_layernorm", "attn_kv_a_norm", size.latent),
    ]


def latent_rules(size: LatentSizes) -> list[Rule]:
    """The matrices of one layer's attention."""
    each = size.plain + size.value
    stored = (size.heads * each, size.latent)
    source, starts = "self_attn.kv_b_proj.weight", [head * each for head in range(size.heads)]
    keys = tuple(range(start, start + size.plain) for start in starts)
    values = tuple(range(start + size.plain, start + each) for start in starts)
    return [
        *query_rules(size),
        *compression_rules(size),
        Rule(
            source,
            "attn_k_b.weight",
            (size.heads, size.latent, size.plain),
            source_shape=stored,
            row_order=keys,
            transposed=True,
        ),
        Rule(source, "attn_v_b.weight", (size.heads, size.value, size.latent), source_shape=stored, row_order=values),
        *linear("self_attn.o_proj", "attn_output", size.hidden, size.heads * size.value),
    ]
