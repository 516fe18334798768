"""Checks that a Go template closes what it opens, to find mistakes before Ollama refuses the TEMPLATE.

Only brackets, quotes and blocks are checked, by the rules of Go's text/template. Functions and fields are not, because
each version of Ollama has its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quantkit.errors import ChatFormatError

_OPENING = re.compile(r"\{\{(?:-(?=[ \t\r\n]))?")
_COMMENT = re.compile(r"\{\{(?:-[ \t\r\n])?/\*")
_COMMENT_END = re.compile(r"\*/(?:[ \t\r\n]-)?\}\}")
_PIECE = re.compile(
    r"""(?P<end>\}\}) | "(?:[^"\\\n]|\\.)*" | `[^`]*` | '(?:[^'\\\n]|\\.)*' | (?P<mark>["`'()]) | [^"`'()}]+ | \}""",
    re.VERBOSE,
)
_WORD = re.compile(r"[ \t\r\n]*(\w*)")
_BLOCKS = frozenset(["if", "range", "with", "block", "define"])
_WITHOUT_ELSE = frozenset(["block", "define"])
_CHAINED = frozenset(["if", "with"])


@dataclass
class _Block:
    word: str
    line: int
    has_else: bool = False


def check_go_syntax(template: str) -> None:
    """Refuse a template that leaves something open, or closes something that is not open.

    Raises:
        ChatFormatError: with the line and the reason.
    """
    blocks: list[_Block] = []
    for line, word, second in _actions(template):
        if word in _BLOCKS:
            blocks.append(_Block(word, line))
        elif word == "end":
            if not blocks:
                raise _error(line, "{{ end }} without an open block")
            blocks.pop()
        elif word == "else":
            _check_else(blocks, line, second)
    if blocks:
        raise _error(blocks[-1].line, f"{{{{ {blocks[-1].word} }}}} is not closed with {{{{ end }}}}")


def _check_else(blocks: list[_Block], line: int, second: str) -> None:
    """Check an ``else``, or an ``else if`` or ``else with``, which continues a block of the same kind."""
    if not blocks or blocks[-1].word in _WITHOUT_ELSE:
        raise _error(line, "{{ else }} is not inside {{ if }}, {{ range }} or {{ with }}")
    if blocks[-1].has_else:
        raise _error(line, f"{{{{ {blocks[-1].word} }}}} of line {blocks[-1].line} already has an {{{{ else }}}}")
    if second not in _CHAINED:
        blocks[-1].has_else = True
    elif second != blocks[-1].word:
        raise _error(line, f"{{{{ else {second} }}}} is not inside {{{{ {second} }}}}")


def _actions(template: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the first and the second word of each action, leaving out comments."""
    position = 0
    while opening := _OPENING.search(template, position):
        start = opening.start()
        line = template.count("\n", 0, start) + 1
        if comment := _COMMENT.match(template, start):
            position = _comment_end(template, comment.end(), line)
            continue
        first = _WORD.match(template, opening.end())
        assert first is not None
        second = _WORD.match(template, first.end())
        assert second is not None
        position = _action_end(template, opening.end(), line)
        yield line, first[1], second[1]


def _comment_end(template: str, position: int, line: int) -> int:
    close = template.find("*/", position)
    if close < 0:
        raise _error(line, "a comment is not closed with */")
    end = _COMMENT_END.match(template, close)
    if end is None:
        raise _error(line, "}} must follow directly after the */ of a comment")
    return end.end()


def _action_end(template: str, position: int, line: int) -> int:
    depth = 0
    for piece in _PIECE.finditer(template, position):
        mark = piece["mark"]
        if piece["end"]:
            if depth:
                raise _error(line, "a ( is not closed")
            return piece.end()
        if mark == "(":
            depth += 1
        elif mark == ")":
            depth -= 1
            if depth < 0:
                raise _error(line, "a ) without a (")
        elif mark:
            raise _error(line, f"a string that begins with {mark} is not closed")
    raise _error(line, "{{ is not closed with }}")


def _error(line: int, what: str) -> ChatFormatError:
    return ChatFormatError(f"TEMPLATE, line {line}: {what}", hint="correct the TEMPLATE; Ollama would refuse it")
