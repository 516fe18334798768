"""What Tab completes in a chat: commands, the parameters of /set, and the files of /save, /load and /tools."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from quantkit.run.commands import COMMANDS
from quantkit.run.copy_command import CODE
from quantkit.run.settings import ANSWERING

_WITH_FILES = ("/save", "/load", "/tools")


def completions(line: str, word: str) -> list[str]:
    """What the last word of a line may become.

    Args:
        line: what is before the cursor.
        word: its last part, behind the last space; files may have spaces before it.
    """
    name, space, argument = line.partition(" ")
    if not space:
        return [one for one in COMMANDS if one.startswith("/") and one.startswith(line)] if line else []
    if name in ("/set", "/params") and " " not in argument:
        return [one for one in ANSWERING if one.startswith(argument)]
    if name == "/copy":
        return [one for one in (CODE,) if one.startswith(argument)]
    if name in _WITH_FILES:
        before = len(argument) - len(word)
        return [path[before:] for path in _paths(argument)]
    return []


def _paths(start: str) -> list[str]:
    """The files and folders whose path begins with *start*, folders with a slash behind them."""
    folder, _, beginning = start.rpartition("/")
    inside = Path(os.path.expanduser(folder)) if folder else Path("/" if start.startswith("/") else ".")
    try:
        found = sorted(inside.iterdir())
    except (OSError, ValueError, RuntimeError):
        return []
    above = start[: len(start) - len(beginning)]
    hidden = beginning.startswith(".")
    return [
        above + one.name + "/" * one.is_dir()
        for one in found
        if one.name.startswith(beginning) and (hidden or not one.name.startswith("."))
    ]


def readline_completer(buffer: Callable[[], str]) -> Callable[[str, int], str | None]:
    """A completer as readline calls it: with the word and a number that counts up until there is no more.

    Args:
        buffer: returns the line up to the cursor.
    """

    def complete(word: str, number: int) -> str | None:
        found = completions(buffer(), word)
        return found[number] if number < len(found) else None

    return complete
