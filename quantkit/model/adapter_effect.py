"""What one adapter does to the weights, in a few figures: measured while it is merged, kept in manifest and report.

With W the weights before the adapter and D what it adds to them, over all matrices that it changes: the norm of D over
the norm of W, their correlation, and how much of D the weights contain already. Users ask "did my training do
anything?" and "is this the right base?"; these figures answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from quantkit.files.json_fields import Fields


@dataclass(frozen=True, kw_only=True)
class AdapterEffect:
    """The figures of one adapter. A field is a key of the files.

    Attributes:
        adapter: where it came from: an id, or the name of a folder.
        weight: the factor that it was merged with.
        matrices: how many matrices it trains.
        changed: how many of them it changes.
        vectors: how many norms and biases it trains.
        changed_vectors: how many of them it changes.
        norm: the norm of the change over the norm of what it changes: the matrices; the vectors, if it trains no
            matrix.
        correlation: of change and weights, from -1 to 1.
        overlap: how much of the adapter's own change the weights contain already, ``<D, W> / <D, D>`` at weight 1:
            about 0 on the base that it was trained on, about 1 where it is part of the weights.
        overlap_error: the standard deviation that *overlap* would have if weights and change were unrelated.
        large: matrices whose change has more than a quarter of their own norm.
        contained: matrices that contain their change, as far as one matrix can tell.
        plain: it only adds products of factors (LoRA without DoRA's magnitudes, nothing trained in full).
        unchanged: the first tensor that it trains and does not change; left out if there is none.
    """

    adapter: str
    weight: float
    matrices: int
    changed: int
    vectors: int
    changed_vectors: int
    norm: float
    correlation: float
    overlap: float
    overlap_error: float
    large: int
    contained: int
    plain: bool
    unchanged: str = ""

    @property
    def line(self) -> str:
        """The figures in one line, such as ``my-lora adds 1.3 % to 224 of 224 matrices``."""
        counts = []
        if self.matrices:
            counts.append(f"{self.changed} of {_counted(self.matrices, 'matrix', 'matrices')}")
        if self.vectors:
            counts.append(f"{self.changed_vectors} of {_counted(self.vectors, 'vector', 'vectors')}")
        scaled = "" if self.weight == 1 else f" × {self.weight:g}"
        return f"{self.adapter}{scaled} adds {percent(self.norm)} to {' and '.join(counts) or 'no tensor'}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        return values if self.unchanged else {key: value for key, value in values.items() if key != "unchanged"}

    @classmethod
    def from_json(cls, found: Fields) -> AdapterEffect:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        plain = found.value("plain")
        if not isinstance(plain, bool):
            raise found.error("plain", "true or false")
        return cls(
            adapter=found.text("adapter"),
            weight=found.number("weight"),
            matrices=found.size("matrices"),
            changed=found.size("changed"),
            vectors=found.size("vectors"),
            changed_vectors=found.size("changed_vectors"),
            norm=found.number("norm"),
            correlation=found.number("correlation"),
            overlap=found.number("overlap"),
            overlap_error=found.number("overlap_error"),
            large=found.size("large"),
            contained=found.size("contained"),
            plain=plain,
            unchanged=found.optional_text("unchanged") or "",
        )


def percent(share: float) -> str:
    """A share for people: two digits, ``1.3 %``; of the tiniest only that it is there."""
    value = 100 * share
    if 0 < value < 0.001:
        return "less than 0.001 %"
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
