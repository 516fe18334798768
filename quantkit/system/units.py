"""Formats sizes and counts for people, and parses sizes that people type."""

from __future__ import annotations

import re

_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BYTES |= {f"{unit}B": factor for unit, factor in _BYTES.items() if unit}
_BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def parse_size(text: str) -> int | None:
    """``2G``, ``2GB``, ``500MiB`` or a number of bytes, which may be 0; None for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    factor = _BYTES.get(match[2].upper()) if match else None
    if match is None or factor is None:
        return None
    nbytes = float(match[1]) * factor
    return int(nbytes) if nbytes == 0 or 1 <= nbytes < 2**63 else None


def size(nbytes: float) -> str:
    """Bytes: ``1.59 GB``, ``18.00 kB``, ``512 bytes``."""
    unit, factor = _unit(nbytes)
    return f"{nbytes:.0f} bytes" if factor == 1 else f"{nbytes / factor:.2f} {unit}"


def rough_size(nbytes: float) -> str:
    """An estimate of bytes, with three significant digits: ``1.59 GB``, ``15.9 GB``, ``396 MB``."""
    rounded = float(f"{nbytes:.2e}")
    unit, factor = _unit(rounded)
    whole = len(f"{rounded / factor:.0f}")  # digits before the point
    return f"{rounded / factor:.{0 if factor == 1 else max(0, 3 - whole)}f} {unit}"


def _unit(nbytes: float) -> tuple[str, float]:
    """The unit in which a number of bytes is at least one, and its bytes."""
    return next(((unit, factor) for unit, factor in _UNITS if nbytes >= factor), ("bytes", 1.0))


def count(number: float) -> str:
    """Weights: ``8.03 G``, ``2.23 M``, ``512``."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:.0f}"
