"""Reads and writes Ollama's Modelfile by the rules of Ollama's own parser.

The format does not have escapes. A value ends at the first line end where the text read so far is complete: plain text
always is, text opened by ``"`` is when it ends with ``"``, and text opened by triple quotes is when it ends with
triple quotes. White space around a plain value is lost. Everywhere in a value, characters that Go does not consider
printable (zero-width joiners, right-to-left marks, no-break spaces) are lost, except tabs and line ends. So some texts
cannot be written at all. :func:`quote` tries each way of writing a value, reads it back, and refuses the value if none
returns the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from quantkit.errors import ChatFormatError

KEYWORDS = (
    "FROM",
    "LICENSE",
    "TEMPLATE",
    "SYSTEM",
    "ADAPTER",
    "DRAFT",
    "RENDERER",
    "PARSER",
    "PARAMETER",
    "MESSAGE",
    "REQUIRES",
)
ROLES = ("system", "user", "assistant")

_SPACE = " \t\r\n"
_BLOCK = '"""'
_NAME = re.compile("[A-Za-z]*")
_PLAIN = re.compile("[A-Za-z0-9_./+-]+")
_KEY = {"PARAMETER": re.compile("[A-Za-z0-9_]*"), "MESSAGE": _NAME}


@dataclass(frozen=True)
class Command:
    """One command of a Modelfile.

    Attributes:
        keyword: one of KEYWORDS.
        value: its text, without quotes.
        key: the parameter's name for PARAMETER, the role for MESSAGE, else "".
    """

    keyword: str
    value: str
    key: str = ""


def parse_modelfile(text: str) -> tuple[Command, ...]:
    """Return the commands of a Modelfile, in order, read as Ollama reads them.

    Parameters are not checked here, see :func:`quantkit.ollama.parameters.check_parameters`.

    Raises:
        ChatFormatError: Ollama would refuse the file; the message names the line.
    """
    commands = tuple(_commands(text.removeprefix("\ufeff")))
    if not any(command.keyword == "FROM" for command in commands):
        raise ChatFormatError("the Modelfile has no FROM line", hint="add a line such as: FROM ./FILE.gguf")
    return commands


def print_modelfile(commands: Iterable[Command]) -> str:
    """Return the text of a Modelfile; reading it returns the same commands.

    Raises:
        ChatFormatError: a value that a Modelfile cannot contain.
    """
    return "".join(f"{print_command(command)}\n" for command in commands)


def print_command(command: Command) -> str:
    """Return one command as a line, or as several lines if its value has several.

    Raises:
        ChatFormatError: a value that a Modelfile cannot contain, or an unknown keyword or key.
    """
    head = f"{command.keyword} {command.key}" if command.key else command.keyword
    return f"{head} {quote(command.value, what=head, block=command.keyword in ('TEMPLATE', 'SYSTEM', 'LICENSE'))}"


def quote(text: str, *, what: str = "the text", block: bool = False) -> str:
    """Write a value so that Ollama reads exactly that value.

    Args:
        text: the value.
        what: a name for the value, for the error message.
        block: whether triple quotes are tried first, as is usual for prompts, rather than last.

    Raises:
        ChatFormatError: no way of writing it is read back as the same text.
    """
    ways = [f'"{text}"', f"{_BLOCK}{text}{_BLOCK}", text]
    first = f"{_BLOCK}{text}{_BLOCK}" if block else text if _PLAIN.fullmatch(text) else ways[0]
    for way in (first, *ways):
        if _reads_back(way, text):
            return way
    raise ChatFormatError(
        f"{what}: a Modelfile cannot contain {_reason(text)}",
        hint="reword it, because Modelfiles do not have escapes",
    )


def can_quote(text: str) -> bool:
    """Whether a Modelfile can contain a value."""
    try:
        quote(text)
    except ChatFormatError:
        return False
    return True


def _reads_back(written: str, text: str) -> bool:
    # A command before and one after: a value must neither end early nor swallow what follows.
    after = Command("PARAMETER", "1", "seed")
    try:
        return parse_modelfile(f"FROM a\nSYSTEM {written}\nPARAMETER seed 1\n")[1:] == (Command("SYSTEM", text), after)
    except ChatFormatError:
        return False


def _reason(text: str) -> str:
    for character in text:
        if not _is_kept(character):
            return f"the character U+{ord(character):04X}, which Ollama drops when it reads the file"
    return "this text, because one of its lines ends with quotes, which end the value"


def _commands(text: str) -> Iterable[Command]:
    position = 0
    while True:
        while position < len(text) and text[position] in _SPACE:
            position += 1
        if position == len(text):
            return
        if text[position] == "#":
            position = _line_end(text, position)
            continue
        command, position = _command(text, position)
        yield command


def _command(text: str, position: int) -> tuple[Command, int]:
    if not _is_kept(text[position]):
        position += 1  # as Ollama does with the first character of a command, and only there
    keyword, position = _word(text, position, _NAME, "a command")
    keyword = keyword.upper()
    if keyword not in KEYWORDS:
        raise _error(text, position, f"unknown command; the commands are {', '.join(KEYWORDS)}")
    key = ""
    if keyword in _KEY:
        key, position = _word(text, position, _KEY[keyword], f"what follows {keyword}")
        if keyword == "MESSAGE" and key not in ROLES:
            raise _error(text, position, f"a message's role must be one of {', '.join(ROLES)}")
    value, position = _value(text, position)
    return Command(keyword, value, key), position


def _word(text: str, position: int, pattern: re.Pattern[str], what: str) -> tuple[str, int]:
    """Read a word and the one blank that must follow it."""
    match = pattern.match(text, position)
    word = match.group() if match else ""
    end = position + len(word)
    if end == len(text):
        raise _error(text, end, f"the file ends inside {what}")
    if text[end] not in " \t":
        raise _error(text, end, f"{what} must be a word followed by a value")
    return word, end + 1


def _value(text: str, position: int) -> tuple[str, int]:
    end = _line_end(text, position)
    pieces = [_kept(text[position:end]).lstrip(_SPACE)]
    size, line = len(pieces[0]), pieces[0].rstrip(_SPACE)
    mark = next((mark for mark in (_BLOCK, '"') if line.startswith(mark)), None)
    if mark is None:
        return line, end
    while not (line.endswith(mark) and size - len(pieces[-1]) + len(line) >= 2 * len(mark)):
        if end == len(text):
            raise _error(text, end, "the file ends inside quotes")
        pieces.append(text[end])
        position, end = end + 1, _line_end(text, end + 1)
        pieces.append(_kept(text[position:end]))
        size += 1 + len(pieces[-1])
        line = pieces[-1].rstrip(_SPACE)
    return "".join(pieces).strip(_SPACE)[len(mark) : -len(mark)], end


def _kept(text: str) -> str:
    return "".join(filter(_is_kept, text))


def _is_kept(character: str) -> bool:
    return character.isprintable() or character in _SPACE


def _line_end(text: str, position: int) -> int:
    while position < len(text) and text[position] not in "\r\n":
        position += 1
    return position


def _error(text: str, position: int, message: str) -> ChatFormatError:
    line = text.count("\n", 0, position) + 1
    return ChatFormatError(
        f"Modelfile, line {line}: {message}", hint="correct that line, or give another file that is a Modelfile"
    )
