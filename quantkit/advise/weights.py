"""The bytes of a model's tensors: by layer, and those that are read for each token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.gguf.header import EMBEDDING, OUTPUT, TensorInfo

_LAYER = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"_exps\.")


@dataclass(frozen=True)
class Weights:
    """Bytes.

    Attributes:
        layers: of each layer.
        embedding: of the token embedding, which stays in main memory: a token needs one row of it.
        head: of the output head, with the last norm; for a tied model a second use of the embedding.
        tied: whether the head is the embedding.
        per_token: those that are read for one token: everything but the embedding, and of experts those that are used.
    """

    layers: tuple[int, ...]
    embedding: int
    head: int
    tied: bool
    per_token: float

    @property
    def total(self) -> int:
        """All tensors."""
        return sum(self.layers) + self.embedding + self.head - (self.embedding if self.tied else 0)


def weigh(metadata: Mapping[str, Any], tensors: Iterable[TensorInfo]) -> Weights:
    """Add up tensors.

    Args:
        metadata: values of the GGUF file by key.
        tensors: its tensors; offsets do not count.
    """
    arch = metadata.get("general.architecture")
    count, used = metadata.get(f"{arch}.expert_count"), metadata.get(f"{arch}.expert_used_count")
    share = used / count if count and used else 1.0
    layers: dict[int, int] = {}
    embedding = head = 0
    tied, per_token = True, 0.0
    for info in tensors:
        nbytes = info.type.nbytes(info.shape)
        if match := _LAYER.match(info.name):
            number = int(match[1])
            layers[number] = layers.get(number, 0) + nbytes
            per_token += nbytes * share if _EXPERTS.search(info.name) else nbytes
        elif info.name == EMBEDDING:
            embedding = nbytes
        else:
            tied = tied and info.name != OUTPUT
            head += nbytes
            per_token += nbytes
    if tied:
        head, per_token = head + embedding, per_token + embedding
    return Weights(tuple(layers[number] for number in sorted(layers)), embedding, head, tied, per_token)
