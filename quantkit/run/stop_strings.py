"""Texts that end an answer, found in a stream whose pieces may cut them anywhere."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Lets text through up to the first stop text; holds back an end that may yet become one.

    Attributes:
        found: whether a stop text was met. Nothing comes out afterwards.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take the next piece; returns what is certain to be part of the answer."""
        if self.found:
            return ""
        held = self._held + text
        if starts := [at for stop in self._stops if (at := held.find(stop)) >= 0]:
            self.found, self._held = True, ""
            return held[: min(starts)]
        size = max((_overlap(held, stop) for stop in self._stops), default=0)
        cut = len(held) - size
        self._held = held[cut:]
        return held[:cut]

    def flush(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The longest end of *text* that *stop* begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
