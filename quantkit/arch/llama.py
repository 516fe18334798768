"""Llama 2, 3, 3.1, 3.2 and 3.3, and everything trained in their shape."""

from __future__ import annotations

import math

import torch

from quantkit.arch.base import Architecture, Config, Generated, Rule, head_dim, number, positive, rope
from quantkit.arch.decoder import decoder_metadata, decoder_rules
from quantkit.errors import ArchitectureError
from quantkit.gguf_header import KV, u32


def metadata(config: Config) -> list[KV]:
    return [
        *decoder_metadata("llama", config, explicit_head_dim=True),
        u32("llama.vocab_size", positive(config, "vocab_size")),
        u32("llama.rope.dimension_count", head_dim(config)),
    ]


def rules(config: Config) -> list[Rule]:
    attention_bias = bool(config.get("attention_bias", False))
    size = head_dim(config)
    return decoder_rules(
        config,
        arrange_heads=lambda rows: interleave_halves(rows, size),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
    )


def interleave_halves(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Whole q or k heads from transformers' rotary order (two halves) to ggml's (pairs side by side).

    Row ``half * size/2 + i`` of a head becomes row ``2 * i + half``: transformers rotates element i with element
    i + size/2 (``rotate_half``), ggml's "norm" rope rotates neighbours.

    Args:
        rows: shape [heads * size, ...].
        size: rows of a head.
    """
    heads = rows.shape[0] // size
    return rows.reshape(heads, 2, size // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def generated(config: Config) -> list[Generated]:
    """``rope_freqs.weight`` for Llama 3.1's rope scaling: by how much each frequency is slowed, shape [head_dim / 2].

    The formula is ``_compute_llama3_parameters`` of transformers, as a divisor of the plain frequencies.
    """
    settings = rope(config)
    if settings.get("rope_type") != "llama3":
        return []
    where = "config.json: rope_scaling"
    base, factor, low, high, context = (
        number(settings, key, where, above=0)
        for key in ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if not low < high:
        raise ArchitectureError(f"{where}: low_freq_factor {low:g} is not below high_freq_factor {high:g}")
    size = head_dim(config)
    frequencies = 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    factors: list[torch.Tensor | float] = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency  # a float32 tensor: the rounding of llama.cpp's converter
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return [Generated("rope_freqs.weight", torch.tensor(factors, dtype=torch.float32))]


ARCHITECTURE = Architecture("llama", ("LlamaForCausalLM", "LLaMAForCausalLM"), metadata, rules, generated)
