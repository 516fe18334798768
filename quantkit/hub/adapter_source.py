"""Which adapter is merged, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import AdapterError
from quantkit.hub.source import Source, source_label


@dataclass(frozen=True)
class AdapterSource:
    """An adapter to merge.

    Attributes:
        source: PEFT folder, or a hub's id of one.
        weight: factor of what the adapter changes: a tensor W that it would make W' becomes ``W + weight * (W' - W)``.
            For LoRA that is its scaling times *weight*.
    """

    source: Source
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise AdapterError(f"{self.source}: weight {self.weight} is not a number", hint="use a weight such as 0.5")

    @property
    def folder(self) -> Path:
        """Where it is, once it was fetched."""
        assert isinstance(self.source, Path), f"{self.source} was not fetched"
        return self.source

    @property
    def label(self) -> str:
        """For people: the name, and the weight where it is not 1."""
        return source_label(self.source) + ("" if self.weight == 1 else f" × {self.weight:g}")


AdapterLike = AdapterSource | Source


def adapter_sources(adapters: Iterable[AdapterLike]) -> tuple[AdapterSource, ...]:
    """A folder or an id by itself is an adapter merged with weight 1."""
    return tuple(one if isinstance(one, AdapterSource) else AdapterSource(one) for one in adapters)
