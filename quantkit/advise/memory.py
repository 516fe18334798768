"""How much memory a model needs to run, by part. Pure: the file's metadata, the bytes of its tensors, the context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.advise.cache import F16_CACHE, CacheTypes, cache_layers, layer_nbytes

BATCH = 512
"""Tokens that llama.cpp's programs compute at once (``--ubatch-size``), where nothing else is said."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part.

    Attributes:
        weights: the tensors, as they are in the file.
        cache: keys and values of the context.
        compute: what llama.cpp reserves for intermediate results.
        program: the process itself, with its libraries and the vocabulary.
    """

    weights: int
    cache: int
    compute: int
    program: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.compute + self.program


def memory(
    metadata: Mapping[str, Any],
    weights: int,
    context: int,
    *,
    compute: int,
    types: CacheTypes = F16_CACHE,
    batch: int = BATCH,
    full_windows: bool = False,
) -> Memory:
    """What a model needs to run.

    Args:
        metadata: values of its GGUF file by key; of the vocabulary only ``tokenizer.ggml.tokens`` counts.
        weights: bytes of its tensors, of whatever types.
        context: tokens of context.
        compute: bytes for intermediate results, which do not depend on the types of the weights: see
            :func:`quantkit.advise.context.ask_context`.
        types: of the cache.
        batch: tokens that are computed at once.
        full_windows: whether layers with a sliding window keep the whole context.

    Raises:
        GGUFError: the metadata lack a number.
    """
    layers = cache_layers(metadata)
    cache = sum(layer_nbytes(layer, context, types, batch=batch, full=full_windows) for layer in layers)
    return Memory(weights, cache, compute, program_nbytes(len(metadata.get("tokenizer.ggml.tokens") or ())))


# Measured with llama-completion, as what its resident memory has beside the other parts: with vocabularies of 8k and
# 262k tokens.
_PROGRAM_NBYTES, _TOKEN_NBYTES = 20_000_000, 170


def program_nbytes(tokens: int) -> int:
    """The process with its libraries and a vocabulary of so many tokens."""
    return _PROGRAM_NBYTES + tokens * _TOKEN_NBYTES
