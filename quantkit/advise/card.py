"""How many layers of a model fit into the memory of a graphics card.

As llama.cpp places them (``--n-gpu-layers``): the output head is the first to go, then the layers from the last one
down, each with its cache; the token embedding always stays in main memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.advise.memory import BATCH
from quantkit.advise.weights import Weights

RESERVED = 820_000_000
"""What the driver and CUDA's libraries take of a card's memory.

Measured: 776 to 809 MB on an H200 (CUDA 13), for models of 1.5 and 8 billion weights, whole or in part on the card.
"""
_LOGIT = 4


@dataclass(frozen=True)
class Placement:
    """Where a model is.

    Attributes:
        layers: for ``--n-gpu-layers``; the head is one of them.
        of: all there are.
        card: bytes on the card, with what the driver takes; 0 if nothing is there.
        host_weights, host_cache: bytes in main memory.
        host_share: of the bytes that are read for a token, the part in main memory.
    """

    layers: int
    of: int
    card: int
    host_weights: int
    host_cache: int
    host_share: float


def card_compute(compute: int, vocabulary: int) -> int:
    """Bytes for intermediate results on a card.

    There all is taken that llama.cpp reserves, logits for each token of a batch included; of main memory it is what is
    touched.

    Args:
        compute: bytes with the logits of one token.
        vocabulary: tokens of the vocabulary.
    """
    return max(compute, BATCH * vocabulary * _LOGIT)


def place(weights: Weights, caches: Sequence[int], compute: int, card: int) -> Placement:
    """Put as much onto the card as fits.

    Args:
        weights: bytes of the tensors.
        caches: bytes of the cache of each layer.
        compute: bytes for intermediate results there, see :func:`card_compute`.
        card: bytes of its memory, 0 for none.
    """
    sizes = [weights.head, *(size + cache for size, cache in zip(weights.layers[::-1], caches[::-1], strict=True))]
    taken, layers = RESERVED + compute, 0
    for size in sizes:
        if taken + size > card:
            break
        taken, layers = taken + size, layers + 1
    kept = len(weights.layers) - max(layers - 1, 0)
    on_card = bool(layers)
    # The head of a tied model is copied to the card; the embedding remains.
    head = 0 if on_card else weights.head - (weights.embedding if weights.tied else 0)
    gone = sum(weights.layers[kept:]) + (weights.head if on_card else 0)
    whole = sum(weights.layers) + weights.head
    return Placement(
        layers=layers,
        of=len(sizes),
        card=taken if layers else 0,
        host_weights=sum(weights.layers[:kept]) + weights.embedding + head,
        host_cache=sum(caches[:kept]),
        host_share=1 - gone / whole if whole else 0.0,
    )
