"""Reads back what a package's chat.sh passes to llama-cli. The script is not run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

_NAME = re.compile(r"^# Chat with (.*) on this machine, offline\. Made by quantkit\.$", re.MULTILINE)
_COMMAND = re.compile(r'^ +exec llama-cli -m "\$folder/\$model" --jinja ', re.MULTILINE)
_REST = "$@"  # the user's own options, which end the command
_SYSTEM = ["-sys", "$system"]


@dataclass(frozen=True)
class ScriptSettings:
    """What a script says; None for what it does not.

    Attributes:
        name: the package's name, on one line.
        model: the model's file.
        mmproj: the file with which it sees pictures.
        system: the system prompt.
        options: llama-cli's options and their values, sorted.
    """

    name: str | None
    model: str | None
    mmproj: str | None
    system: str | None
    options: tuple[tuple[str, str], ...] | None


def read_script(text: str) -> ScriptSettings:
    """Read the settings of a chat.sh that :func:`quantkit.package.chat_script.chat_sh` wrote.

    Raises:
        ValueError: a quote is not closed, or an option has no value.
    """
    name, command = _NAME.search(text), _COMMAND.search(text)
    return ScriptSettings(
        name=name and name.group(1),
        model=_assigned(text, "model"),
        mmproj=_assigned(text, "mmproj"),
        system=_assigned(text, "system"),
        options=None if command is None else _options(text[command.end() :]),
    )


def option_pairs(words: list[str] | tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Options that each have one value as sorted pairs.

    Raises:
        ValueError: the last one has no value.
    """
    return tuple(sorted(zip(words[::2], words[1::2], strict=True)))


def _options(text: str) -> tuple[tuple[str, str], ...]:
    words = _words(text)
    found: list[str] = []
    while (word := words.get_token()) is not None and (word != _REST or len(found) % 2):
        found.append(word)
    return option_pairs(found[:-2] if found[-2:] == _SYSTEM else found)


def _assigned(text: str, variable: str) -> str | None:
    """The value of the first assignment at the beginning of a line."""
    found = re.search(rf"^{variable}=", text, re.MULTILINE)
    return None if found is None else (_words(text[found.end() :]).get_token() or "")


def _words(text: str) -> shlex.shlex:
    words = shlex.shlex(text, posix=True)
    words.whitespace_split, words.commenters = True, ""
    return words
