"""Stop sequences, found in a stream whose pieces may split them anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.system.overlap import overlap


class StopTexts:
    """Passes text on up to the first stop sequence; holds back an end that may still become one.

    Attributes:
        found: whether a stop sequence was found. No text is passed on afterwards.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take the next piece; returns the text that is certain to be part of the answer."""
        if self.found:
            return ""
        held = self._held + text
        if starts := [at for stop in self._stops if (at := held.find(stop)) >= 0]:
            self.found, self._held = True, ""
            return held[: min(starts)]
        size = max((overlap(held, stop) for stop in self._stops), default=0)
        cut = len(held) - size
        self._held = held[cut:]
        return held[:cut]

    def flush(self) -> str:
        """Return the text held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held
