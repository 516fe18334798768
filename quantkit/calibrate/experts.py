"""Experts that saw too few tokens for their importances to mean much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantkit.calibrate.sums import Sums

_FEW = 0.1  # of an even share
_NAMED = 6


@dataclass(frozen=True)
class FewTokens:
    """Experts of one tensor.

    Attributes:
        name: the tensor.
        experts: how many it has.
        few: how many of them saw less than a tenth of an even share of the tokens.
        none: how many of these saw none.
    """

    name: str
    experts: int
    few: int
    none: int


def few_tokens(sums: Mapping[str, Sums]) -> tuple[FewTokens, ...]:
    """The tensors with such experts; of those of a layer that saw the same, the first by name."""
    found: list[FewTokens] = []
    seen: set[tuple[str, bytes]] = set()
    for name in sorted(sums):
        counts = sums[name].counts
        if len(counts) < 2:
            continue
        few = int((counts < _FEW * counts.mean()).sum())
        layer = ".".join(name.split(".")[:2]), counts.tobytes()
        if few and layer not in seen:
            seen.add(layer)
            found.append(FewTokens(name, len(counts), few, int((counts == 0).sum())))
    return tuple(found)


def expert_notes(found: tuple[FewTokens, ...]) -> list[str]:
    """One note for people, or none."""
    if not found:
        return []
    shown = [
        f"{one.name}: {one.few} of {one.experts} ({100 * one.few / one.experts:.1f} %)"
        + (f", {one.none} of them none" if one.none else "")
        for one in found[:_NAMED]
    ]
    if len(found) > _NAMED:
        shown.append(f"and {len(found) - _NAMED} more tensors")
    return [
        "experts that saw less than a tenth of an even share of the tokens, so that their importances say little: "
        f"{'; '.join(shown)}; more data or more --chunks helps"
    ]
