"""The output of a chat: answers on one stream, everything else on another.

Rich draws the spinner and dims the notices, only at a terminal. Answers are written as they arrive: Markdown would have
to be guessed from its beginning, and rendering it changes what the model said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from quantkit.run.word_wrap import WordWrap
from quantkit.system.streams import has_unicode
from quantkit.system.terminal_text import harmless, terminal_width

THINKING, ANSWERING = "(thinking)", "(end of the thought)"


class Screen:
    """The streams of a chat.

    Attributes:
        lively: whether a person is watching.
    """

    def __init__(self, out: TextIO, err: TextIO, *, lively: bool = False) -> None:
        """Prepare.

        Args:
            out: stream for answers only.
            err: stream for everything else.
            lively: whether a person is watching, who should see a spinner.
        """
        from rich.console import Console

        self._out = out
        self._thinking = False
        self._raw = not out.isatty()
        self.lively = lively
        self._spinner = "dots" if has_unicode(err) else "line"
        # In a pipe or a log lines stay whole; at a terminal words do.
        self._console = Console(file=err, soft_wrap=not err.isatty(), markup=False, emoji=False, highlight=False)
        self._wrap = WordWrap()

    def answer(self, piece: str) -> None:
        """Show a piece of an answer."""
        self._end_thought()
        self._out.write(piece if self._raw else self._at_terminal(harmless(piece)))
        self._out.flush()

    def end_answer(self) -> None:
        """End its last line; the next answer begins in no block of code."""
        self.answer("\n")
        self._wrap = WordWrap()

    def _at_terminal(self, piece: str) -> str:
        width = terminal_width()
        return piece if width is None or self._console.is_dumb_terminal else self._wrap.wrapped(piece, width)

    def thought(self, piece: str) -> None:
        """Show a piece of a thought: dimmed, or after a marker where nothing can be dimmed."""
        if not self._thinking:
            self._thinking = True
            self._console.print(THINKING, style="dim")
        self._console.print(harmless(piece), style="dim", end="", soft_wrap=True)

    def _end_thought(self) -> None:
        if self._thinking:
            self._thinking = False
            self._console.print(f"\n{ANSWERING}\n", style="dim")

    def say(self, text: str, style: str = "dim") -> None:
        """Show text that is not part of an answer."""
        self._end_thought()
        self._console.print(harmless(text), style=style)

    def command(self, sequence: str) -> bool:
        """Send an escape sequence that shows nothing; whether there is a terminal that may know it."""
        stream = next((stream for stream in (self._console.file, self._out) if stream.isatty()), None)
        if stream is None or self._console.is_dumb_terminal:
            return False
        stream.write(sequence)
        stream.flush()
        return True

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner while the block runs."""
        if not self.lively:
            yield
            return
        with self._console.status(text, spinner=self._spinner, spinner_style="dim"):
            yield
