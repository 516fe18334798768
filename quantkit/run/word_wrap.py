"""Breaks lines between words while a text arrives piece by piece.

A terminal breaks them anywhere. The beginning of a word may be shown before it is known that the word does not fit: it
is then taken back, and shown on the next line. Lines of code stay as they are.
"""

from __future__ import annotations

from rich.cells import cell_len

_FENCES = ("```", "~~~")


class WordWrap:
    """What a terminal is sent, so that words stay whole."""

    def __init__(self) -> None:
        """Begin in the first column."""
        self._column = 0
        self._word = ""  # what is shown of the last word
        self._head = ""  # of the line, enough to know the mark of a block of code
        self._fence = ""  # of the block of code that is open

    def wrapped(self, piece: str, width: int) -> str:
        """Return what to send for a piece of the text.

        Args:
            piece: harmless characters.
            width: columns of the terminal; the last one stays free, where terminals differ in what going back means.
        """
        return "".join(self._sent(character, width - 1) for character in piece)

    def _sent(self, character: str, room: int) -> str:
        if character == "\n":
            self._mark_code()
            self._column, self._word, self._head = 0, "", ""
            return character
        if len(self._head) < len(_FENCES[0]) and not (character == " " and not self._head):
            self._head += character
        cells = 8 - self._column % 8 if character == "\t" else cell_len(character)
        before = ""
        if self._column + cells > room and not self._fence and not self._head.startswith(_FENCES):
            if character in " \t":  # the line end is in its place
                self._column, self._word = 0, ""
                return "\n"
            before = self._next_line(room)
        self._column += cells
        # Chinese and Japanese are broken between any two characters.
        self._word = "" if character in " \t" or cells == 2 else self._word + character
        return before + character

    def _next_line(self, room: int) -> str:
        shown, word = cell_len(self._word), self._word
        if shown >= room:  # a word that is longer than a line
            shown, word = 0, ""
        self._column, self._word = shown, word
        return (f"\x1b[{shown}D\x1b[K" if shown else "") + "\n" + word

    def _mark_code(self) -> None:
        if self._fence:
            self._fence = "" if self._head == self._fence else self._fence
        elif self._head in _FENCES:
            self._fence = self._head
