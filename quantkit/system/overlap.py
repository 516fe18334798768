"""What texts have in common at their ends."""

from __future__ import annotations


def overlap(text: str, mark: str) -> int:
    """The length of the longest end of *text* that *mark* begins with, and is longer than."""
    return next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:size])), 0)


def common_start(*texts: str) -> str:
    """The longest text that all texts begin with."""
    shortest = min(texts, key=len)
    return next((shortest[:i] for i, c in enumerate(shortest) if any(text[i] != c for text in texts)), shortest)
