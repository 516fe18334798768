"""The output of a chat: answers on one stream, everything else on another.

Rich draws the spinner and dims the notices, only at a terminal. Answers are written as they arrive: Markdown would have
to be guessed from its beginning, and rendering it changes what the model said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from quantkit.system.terminal_text import harmless


class Screen:
    """The streams of a chat."""

    def __init__(self, out: TextIO, err: TextIO, *, lively: bool = False) -> None:
        """Prepare.

        Args:
            out: stream for answers only.
            err: stream for everything else.
            lively: whether a person is watching, who should see a spinner.
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
        """Show text that is not part of an answer."""
        self._console.print(harmless(text), style=style)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner while the block runs."""
        if not self._lively:
            yield
            return
        with self._console.status(text, spinner_style="dim"):
            yield
