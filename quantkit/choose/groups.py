"""Which tensors are measured together: those of one role in neighbouring layers.

Sensitivity differs a hundredfold between roles, and by ten between the first layers and the rest; among neighbours in
the middle it hardly changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Groups at most, if there are not more roles: the number of evaluations.
MOST_GROUPS = 64
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


def role_of(name: str) -> tuple[str, int | None]:
    """A tensor's name without its layer, and the layer: ``attn_v.weight`` and 3; None for what is in no layer."""
    match = _LAYER.fullmatch(name)
    return (match[2], int(match[1])) if match else (name, None)


def groups(names: Sequence[str], most: int = MOST_GROUPS) -> tuple[tuple[str, ...], ...]:
    """Divide tensors into groups.

    Every role has the same number of groups, as far as it has layers: the first layers and the last are by themselves
    while there is room, and the rest are divided evenly.

    Args:
        names: the tensors' names.
        most: groups at most; there are more if there are more roles.
    """
    by_role: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        role, layer = role_of(name)
        by_role.setdefault(role, []).append((-1 if layer is None else layer, name))
    layered = [sorted(found) for found in by_role.values()]
    parts = 1
    while sum(min(len(found), parts + 1) for found in layered) <= most and parts < max(map(len, layered), default=0):
        parts += 1
    return tuple(
        tuple(name for _, name in found[start:stop]) for found in layered for start, stop in _cuts(len(found), parts)
    )


def _cuts(count: int, parts: int) -> list[tuple[int, int]]:
    """Consecutive ranges of *count* layers, at most *parts*."""
    if parts >= count:
        return [(number, number + 1) for number in range(count)]
    # Of three parts one is the first layer, of four and more one is the last, of six and more one is the second.
    head, tail = (parts >= 3) + (parts >= 6), int(parts >= 4)
    middle, inner = parts - head - tail, count - head - tail
    edges = [*range(head), *(head + inner * number // middle for number in range(middle)), *range(count - tail, count)]
    return list(zip(edges, [*edges[1:], count], strict=True))
