"""What is judged, and the process that asks transformers: its request, from outside. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Judged:
    """A model with its adapters.

    Attributes:
        model: the checkpoint's folder.
        adapters: folder and weight of each, in the order in which they are merged.
        device: ``auto``, ``cpu``, or a CUDA device as torch names it.
    """

    model: Path
    adapters: tuple[tuple[Path, float], ...] = ()
    device: str = "auto"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        adapters = [[str(folder), weight] for folder, weight in self.adapters]
        return {"model": str(self.model), "adapters": adapters, "device": self.device}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Judged:
        """Read what :meth:`to_json` wrote."""
        adapters = tuple((Path(folder), weight) for folder, weight in values["adapters"])
        return cls(Path(values["model"]), adapters, values["device"])
