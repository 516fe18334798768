"""Reads questions and commands, on one line or several, from a terminal or a pipe.

Lines between two ``\"\"\"`` are one text, as in Ollama. At a terminal, a pasted multi-line text is one text without
them: it is shown, and Enter sends it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from quantkit.errors import QuantkitError
from quantkit.run.history import History

PROMPT = ">>> "
MORE = "... "
QUOTES = '"""'

Read = Callable[[str], str]
"""Shows a prompt and returns a line without its end, as :func:`input` does; raises EOFError at the end."""

_BLOCK = re.compile(rf"(/(?:system|edit|result)\s+|\s*){QUOTES}")
_COMMAND = re.compile(r"(/[A-Za-z]*|(?:exit|quit)(?=\s*\Z))(?:\s+|\Z)")
_TAKE_LINES = ("/system", "/edit", "/result")


@dataclass(frozen=True)
class Entry:
    """A question or a command.

    Attributes:
        typed: the text as typed.
        command: the name of a command, such as "/set"; None for a question.
        text: the question, or the argument of the command.
    """

    typed: str
    command: str | None
    text: str


def read_entry(read: Read) -> Entry:
    """Read the next question or command.

    A line is a command if it begins with a slash and a word; with a space before the slash it is a question.

    Raises:
        EOFError: the input has ended.
        QuantkitError: a multi-line text is not closed.
    """
    typed = read(PROMPT)
    block = _BLOCK.match(typed)
    if block is None:
        return _plain(typed)
    while not (body := typed[block.end() :].rstrip()).endswith(QUOTES):
        try:
            typed += "\n" + read(MORE)
        except EOFError:
            raise QuantkitError(
                f"the text after {QUOTES} is not closed, so it was not sent", hint=f"close it with another {QUOTES}"
            ) from None
    return Entry(typed, block[1].strip() or None, body.removesuffix(QUOTES).strip("\n"))


def _plain(line: str) -> Entry:
    command = _COMMAND.match(line)
    if command and ("\n" not in line.strip() or command[1] in _TAKE_LINES):  # a pasted text may begin with a path
        return Entry(line, command[1], line[command.end() :].strip())
    return Entry(line, None, line.strip())


def reader_of(lines: Iterable[str]) -> Read:
    """Return a reader of *lines*, with or without line ends, that shows no prompt."""
    rest = iter(lines)

    def read(prompt: str) -> str:
        for line in rest:
            return line.removesuffix("\n").removesuffix("\r")
        raise EOFError

    return read


def terminal_reader(
    history: History, completer: Callable[[Callable[[], str]], Callable[[str, int], str | None]] | None = None
) -> tuple[Read, Callable[[str], None]]:
    """Return a reader with line editing, where the system supports it, and a function that adds to the history.

    Args:
        history: of earlier chats.
        completer: makes what completes at Tab, from what returns the line up to the cursor.

    If standard output is redirected, the prompt goes to standard error.
    """
    if not sys.stdout.isatty():
        return _read_with_prompt_on_stderr, history.add
    try:
        import readline
    except ImportError:  # Windows has none; its console edits lines and remembers them itself
        return input, history.add
    from quantkit.run.line_editor import LineEditor

    readline.set_auto_history(False)
    if os.environ.get("TERM", "dumb") != "dumb":
        readline.parse_and_bind("set enable-bracketed-paste on")  # a paste is one text, even with several lines
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^R em-inc-search-prev" if libedit else '"\\C-r": reverse-search-history')
    if completer is not None:
        readline.set_completer_delims(" ")
        readline.set_completer(completer(lambda: readline.get_line_buffer()[: readline.get_endidx()]))
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")

    def offer(entry: str) -> None:
        with suppress(UnicodeEncodeError):  # readline has the locale's encoding; the file keeps what that lacks
            readline.add_history(entry)

    for entry in history.entries:
        offer(entry)

    def remember(typed: str) -> None:
        if history.is_new(typed):
            offer(typed)
            history.add(typed)

    return LineEditor().read, remember


def _read_with_prompt_on_stderr(prompt: str) -> str:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.removesuffix("\n")
