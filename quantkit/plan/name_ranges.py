"""Names of tensors for people: those of many layers as one, such as ``blk.{0-3,7}.attn_v.weight``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

_LAYER = re.compile(r"(.*?\.)(\d+)(\..*)")


def joined_names(names: Iterable[str]) -> list[str]:
    """The names in the order of their first appearance, with the numbers of layers as ranges."""
    layers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        found = _LAYER.fullmatch(name)
        numbers = layers.setdefault((found[1], found[3]) if found else (name, ""), [])
        if found:
            numbers.append(int(found[2]))
    return [_joined(before, sorted(numbers), after) for (before, after), numbers in layers.items()]


def _joined(before: str, numbers: list[int], after: str) -> str:
    if len(numbers) <= 1:
        return before + "".join(map(str, numbers)) + after
    return f"{before}{{{','.join(_ranges(numbers))}}}{after}"


def _ranges(numbers: list[int]) -> Iterator[str]:
    """Runs of consecutive numbers as ``first-last``."""
    first = numbers[0]
    for this, following in pairwise([*numbers, -1]):
        if following != this + 1:
            yield str(this) if this == first else f"{first}-{this}"
            first = following
