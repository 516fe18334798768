"""readline at a terminal that changes under it: stopped with Ctrl-Z and resumed, or made narrower or wider.

Before it stops, the terminal is given back as it was, and after ``fg`` the line is shown anew. When the width changes,
many terminals wrap the line anew, of which readline knows nothing: it would show the line twice, or over what is above
it. So the terminal is asked in which column the cursor is now, which tells whether it has wrapped the line.
"""

from __future__ import annotations

import ctypes
import locale
import os
import re
import readline
import select
import signal
import sys
import time
from functools import partial
from types import FrameType
from typing import NamedTuple, NoReturn

from rich.cells import cell_len

_ASK = "\x1b[6n"  # where is the cursor?
_TOLD = re.compile(rb"\x1b\[\d+;(\d+)R")
_PATIENCE = 1.0  # seconds; a later answer would be taken for keys
_SETTLES = 5  # sizes that are looked at while a window is being dragged


class _Stopped(Exception):
    """Ctrl-Z was pressed."""


class LineEditor:
    """Reads lines with readline; one per process, in its main thread."""

    def __init__(self) -> None:
        """Take over the signals; readline keeps that of the window's size where its library cannot be reached."""
        self._reading = False
        self._wraps = False
        self._spare = 0  # columns that readline leaves free: one where the terminal cannot wrap
        self._library = _library()
        if self._library is not None:
            signal.signal(signal.SIGWINCH, self._resized)

    def read(self, prompt: str) -> str:
        """Show a prompt and return a line, as :func:`input` does."""
        kept = ""
        while True:
            self._take(_terminal_size())
            readline.set_startup_hook(partial(readline.insert_text, kept))
            try:
                return self._read_until_stopped(prompt)
            except _Stopped:
                kept = readline.get_line_buffer()
                os.kill(os.getpid(), signal.SIGTSTP)  # and on from here after fg
            finally:
                readline.set_startup_hook(None)

    def _read_until_stopped(self, prompt: str) -> str:
        stops = signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL  # not without a shell that can let it go on
        if stops:
            signal.signal(signal.SIGTSTP, _stop)
        self._reading = True
        try:
            return input(prompt)
        finally:
            self._reading = False
            if stops:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _take(self, size: os.terminal_size) -> None:
        """Tell readline of a size for which it has nothing to show anew."""
        if self._library is not None and size.columns > 1:
            self._library.rl_set_screen_size(size.lines, size.columns)
            self._spare = size.columns - _columns(self._library)

    def _resized(self, signum: int, frame: FrameType | None) -> None:
        # Another signal may come meanwhile, so the last width is looked for before and after.
        shown: int | None = None
        while self._reading and self._library is not None:
            size = _terminal_size()
            # A signal that comes while readline is busy with a key it sees itself, and has shown the line anew.
            if size.columns < 2 or size.columns in (shown, _columns(self._library) + self._spare):
                self._take(size)
                return
            self._reading = False
            try:
                shown = self._show_anew(self._library)
            finally:
                self._reading = True

    def _show_anew(self, library: ctypes.CDLL) -> int:
        """Show the line for the present width, which is returned; it is another one than readline believes in."""
        text = self._before_cursor(library)
        for _ in range(_SETTLES):
            columns = _terminal_size().columns
            column = self._column(library)
            if columns == _terminal_size().columns:
                break
        believed, wrapped = cursor(text, _columns(library) + self._spare), cursor(text, columns)
        stayed = min(believed.column, columns - 1)
        if column is None:
            self._wraps = False
        elif wrapped.column != stayed:  # else the column says nothing, and the terminal does what it did before
            self._wraps = column == wrapped.column
        sys.stdout.write(to_start((wrapped if self._wraps else believed).row, believed.row))
        sys.stdout.flush()
        library.rl_resize_terminal()
        return columns

    def _before_cursor(self, library: ctypes.CDLL) -> str:
        """The prompt, or what readline shows in its place, and the line up to the cursor."""
        prompt = ctypes.c_char_p.in_dll(library, "rl_display_prompt").value or b""
        line = ctypes.c_char_p.in_dll(library, "rl_line_buffer").value or b""
        point = ctypes.c_int.in_dll(library, "rl_point").value
        return (prompt + line[:point]).decode(locale.getencoding(), "replace")

    def _column(self, library: ctypes.CDLL) -> int | None:
        """The column of the cursor, from 0; None if the terminal does not say. Keys that come meanwhile are kept."""
        sys.stdout.write(_ASK)
        sys.stdout.flush()
        end, came, keyboard = time.monotonic() + _PATIENCE, b"", sys.stdin.fileno()
        while (told := _TOLD.search(came)) is None and (left := end - time.monotonic()) > 0:
            if not select.select([keyboard], [], [], left)[0] or not (more := os.read(keyboard, 1024)):
                break
            came += more
        for key in came if told is None else came[: told.start()] + came[told.end() :]:
            library.rl_stuff_char(key)
        return None if told is None else int(told[1]) - 1


class Place(NamedTuple):
    """Where a cursor is, from 0, seen from where a text begins."""

    row: int
    column: int


def cursor(text: str, width: int) -> Place:
    """The place of the cursor behind a text that begins in the first of *width* columns."""
    row = column = 0
    for character in text:
        cells = cell_len(character)
        if character == "\n" or column + cells > width:
            row, column = row + 1, 0
        if character != "\n":
            column += cells
    return Place(row + 1, 0) if column == width else Place(row, column)


def to_start(row: int, believed: int) -> str:
    """What to send before readline shows its line anew, so that it begins where the old one did.

    Args:
        row: of the cursor, from the line's first.
        believed: the row in which readline believes it to be.
    """
    up = f"\x1b[{row}A" if row else ""
    return f"\r{up}\x1b[J" + "\n" * believed  # readline goes up as far as it believes to be down


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped


def _library() -> ctypes.CDLL | None:
    """GNU readline's own functions; None where they are not to be had, or the terminal cannot move up."""
    path = getattr(readline, "__file__", None)
    if path is None or "libedit" in (readline.__doc__ or "") or os.environ.get("TERM", "dumb") == "dumb":
        return None
    library = ctypes.CDLL(path)
    names = ("rl_display_prompt", "rl_line_buffer", "rl_point", "rl_get_screen_size", "rl_set_screen_size")
    if not all(_has(library, name) for name in (*names, "rl_resize_terminal", "rl_stuff_char", "rl_variable_value")):
        return None
    library.rl_variable_value.restype = ctypes.c_char_p
    return None if library.rl_variable_value(b"horizontal-scroll-mode") == b"on" else library


def _terminal_size() -> os.terminal_size:
    return os.get_terminal_size(sys.stdout.fileno())


def _columns(library: ctypes.CDLL) -> int:
    """The width in which readline shows its line, in columns."""
    rows, columns = ctypes.c_int(), ctypes.c_int()
    library.rl_get_screen_size(ctypes.byref(rows), ctypes.byref(columns))
    return columns.value


def _has(library: ctypes.CDLL, name: str) -> bool:
    try:
        ctypes.c_char.in_dll(library, name)
    except ValueError:
        return False
    return True
