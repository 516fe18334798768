"""Pieces of GBNF, llama.cpp's notation for grammars.

Rules are a dict from name to right side. Names have letters, digits and dashes only.
"""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.run.options import GrammarError

GAP = ("gap", r"[ \t\n]{0,4}")
"""White space between two markers: models and templates differ in it."""

_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))


def literal(text: str) -> str:
    """A text as itself.

    Raises:
        GrammarError: it has a zero byte, at which llama.cpp would take the grammar to end.
    """
    if "\0" in text:
        raise GrammarError("a text with a zero byte cannot be in a grammar")
    for plain, written in _ESCAPES:
        text = text.replace(plain, written)
    return f'"{text}"'


def text_without(mark: str, name: str, *, least: int = 0) -> dict[str, str]:
    """Rules for any text in which a marker does not occur; *name* is the first.

    They are the automaton of Knuth, Morris and Pratt: a state for each beginning of the marker that the text ends with.

    Args:
        mark: the marker, not empty.
        name: of the first rule; the others begin with it.
        least: 1 for a text that is not empty.
    """
    states = [name, *(f"{name}-{at}" for at in range(1, len(mark)))]
    known = dict.fromkeys(mark)
    rules: dict[str, str] = {}
    for at, state in enumerate(states):
        ways = [f"[^{''.join(map(_in_class, known))}] {states[0]}"]
        for character in known:
            reached = _prefix(mark, mark[:at] + character)
            if reached < len(mark):
                ways.append(f"[{_in_class(character)}] {states[reached]}")
        rules[state] = " | ".join(["", *ways])
    if least:
        rules[f"{name}-some"] = rules[name].removeprefix(" | ")
    return rules


def text(rules: Mapping[str, str]) -> str:
    """A grammar."""
    return "\n".join(f"{name} ::= {rule}" for name, rule in rules.items())


def _prefix(mark: str, text: str) -> int:
    """The length of the longest beginning of a marker with which a text ends."""
    return next(length for length in range(len(text), -1, -1) if mark[:length] == text[len(text) - length :])


def _in_class(character: str) -> str:
    return f"\\U{ord(character):08X}"
