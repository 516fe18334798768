"""Figures with few digits: what was measured on another device or with other threads is then the same."""

from __future__ import annotations


def rounded(value: float, digits: int) -> float:
    """A number with so many significant digits."""
    return float(f"{value:.{digits}g}")
