"""What a chat shows: answers on one stream, everything else on another.

Rich draws the spinner and dims the notices, at a terminal only. Answers are written as they come: Markdown would have
to be guessed from its beginning, and changes what the model said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from quantkit.system.terminal_text import harmless


class Screen:
    """Two streams, each with what it can show."""

    def __init__(self, out: TextIO, err: TextIO, *, lively: bool = False) -> None:
        """Prepare.

        Args:
            out: where answers go, and nothing else.
            err: where everything else goes.
            lively: whether somebody watches who likes to see that something goes on.
        """
        from rich.console import Console

        self._out = out
        self._raw = not out.isatty()
        self._lively = lively
        self._console = Console(file=err, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def answer(self, piece: str) -> None:
        """Show a piece of an answer."""
        self._out.write(piece if self._raw else harmless(piece))
        self._out.flush()

    def say(self, text: str, style: str = "dim") -> None:
        """Tell something that is not part of an answer."""
        self._console.print(harmless(text), style=style)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Something that takes a while."""
        if not self._lively:
            yield
            return
        with self._console.status(text, spinner_style="dim"):
            yield
