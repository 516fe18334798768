"""Numbers for people."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """Bytes: ``1.59 GB``, ``18 kB``, ``512 bytes``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.2f} {unit}"
    return f"{nbytes:.0f} bytes"
