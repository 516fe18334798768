"""Numbers for people."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """Bytes: ``1.59 GB``, ``18 kB``, ``512 bytes``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.2f} {unit}"
    return f"{nbytes:.0f} bytes"


def count(number: float) -> str:
    """Weights: ``8.03 G``, ``2.23 M``, ``512``."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:.0f}"
