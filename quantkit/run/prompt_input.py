"""What a person types, or a pipe gives: questions and commands, on one line or several.

Several lines are one text between two ``\"\"\"``, as in Ollama. At a terminal a pasted text of several lines is one by
itself: it is shown, and Enter sends it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from quantkit.errors import QuantkitError
from quantkit.run.history import History

PROMPT = ">>> "
MORE = "... "
QUOTES = '"""'

Read = Callable[[str], str]
"""Shows a prompt and returns a line without its end, as :func:`input` does; raises EOFError at the end."""

_BLOCK = re.compile(rf"(/system\s+|\s*){QUOTES}")
_COMMAND = re.compile(r"(/[A-Za-z]*|exit(?=\s*\Z))(?:\s+|\Z)")


@dataclass(frozen=True)
class Entry:
    """One thing said.

    Attributes:
        typed: as it was typed.
        command: the name of a command, such as "/set"; None for a question.
        text: the question, or what stands behind the command.
    """

    typed: str
    command: str | None
    text: str


def read_entry(read: Read) -> Entry:
    """The next question or command.

    A line is a command if it begins with a slash and a word; with a space in front it is a question.

    Raises:
        EOFError: there is no more.
        QuantkitError: a text that was begun has no end.
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
                f"the text that {QUOTES} begins has no end, and was not sent", hint=f"end it with a second {QUOTES}"
            ) from None
    return Entry(typed, block[1].strip() or None, body.removesuffix(QUOTES).strip("\n"))


def _plain(line: str) -> Entry:
    if command := _COMMAND.match(line):
        return Entry(line, command[1], line[command.end() :].strip())
    return Entry(line, None, line.strip())


def reader_of(lines: Iterable[str]) -> Read:
    """Reads from *lines*, which may have their ends, and shows no prompt."""
    rest = iter(lines)

    def read(prompt: str) -> str:
        for line in rest:
            return line.removesuffix("\n").removesuffix("\r")
        raise EOFError

    return read


def terminal_reader(history: History) -> tuple[Read, Callable[[str], None]]:
    """Lines edited with the arrow keys, where the system can; and what keeps an entry for them.

    With standard output elsewhere, the prompt goes to standard error.
    """
    if not sys.stdout.isatty():
        return _read_with_prompt_on_stderr, history.add
    try:
        import readline
    except ImportError:  # Windows has none; its console edits lines and remembers them itself
        return input, history.add
    readline.set_auto_history(False)
    if os.environ.get("TERM", "dumb") != "dumb":
        readline.parse_and_bind("set enable-bracketed-paste on")  # a paste is one text, also over several lines
    for entry in history.entries:
        readline.add_history(entry)

    def remember(typed: str) -> None:
        if history.is_new(typed):
            readline.add_history(typed)
            history.add(typed)

    return input, remember


def _read_with_prompt_on_stderr(prompt: str) -> str:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.removesuffix("\n")
