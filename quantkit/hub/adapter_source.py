"""An adapter to merge, and its weight."""

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
        source: PEFT folder, or the id of an adapter on a hub.
        weight: factor of the adapter's changes: a tensor W that it would change to W' becomes
            ``W + weight * (W' - W)``. For LoRA, this multiplies its scale by *weight*.
    """

    source: Source
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise AdapterError(
                f"{self.source}: weight {self.weight} is not a finite number", hint="use a weight such as 0.5"
            )

    @property
    def folder(self) -> Path:
        """The adapter's folder, after it was downloaded."""
        assert isinstance(self.source, Path), f"{self.source} was not downloaded"
        return self.source

    @property
    def label(self) -> str:
        """The name for messages, with the weight if it is not 1."""
        return source_label(self.source) + ("" if self.weight == 1 else f" × {self.weight:g}")


AdapterLike = AdapterSource | Source


def adapter_sources(adapters: Iterable[AdapterLike]) -> tuple[AdapterSource, ...]:
    """Adapter sources; a plain folder or id is merged with weight 1."""
    return tuple(one if isinstance(one, AdapterSource) else AdapterSource(one) for one in adapters)
