"""Reads values that are JSON but for their quotes: bare keys, and a marker around strings, as Gemma 4 writes them."""

from __future__ import annotations

import re
from typing import Any

from quantkit.chat_template.said_json import read_value

_BLANK = re.compile(r"[\s,]*")
_KEY = re.compile(r"\s*([^\s:,{}\[\]]+)\s*:\s*")
_SCALAR = re.compile(r"[^\s,{}\[\]]+(?=\s*[,}\]])")
_DEEPEST = 64


def read_quoted(text: str, at: int, quote: str, depth: int = 0) -> tuple[Any, int] | None:
    """The value that begins there, and where the text behind it does; None if it is none, or not complete.

    Args:
        text: the text.
        at: where the value begins.
        quote: the marker before and after a string.
        depth: how many values it is in.
    """
    if depth > _DEEPEST:
        return None
    if text.startswith(quote, at):
        end = text.find(quote, at + len(quote))
        return None if end < 0 else (text[at + len(quote) : end], end + len(quote))
    if text[at : at + 1] in ("{", "["):
        return _read_several(text, at, quote, depth)
    found = _SCALAR.match(text, at)
    return None if found is None else (_scalar(found[0]), found.end())


def _read_several(text: str, at: int, quote: str, depth: int) -> tuple[Any, int] | None:
    named, close = text[at] == "{", {"{": "}", "[": "]"}[text[at]]
    members, values, at = dict[str, Any](), list[Any](), at + 1
    while True:
        blank = _BLANK.match(text, at)
        at = at if blank is None else blank.end()
        if text.startswith(close, at):
            return (members if named else values), at + 1
        key = _KEY.match(text, at) if named else None
        if named and key is None:
            return None
        found = read_quoted(text, at if key is None else key.end(), quote, depth + 1)
        if found is None:
            return None
        value, at = found
        if key is None:
            values.append(value)
        else:
            members[key[1].removeprefix(quote).removesuffix(quote)] = value


def _scalar(text: str) -> Any:
    try:
        return read_value(text)
    except ValueError:
        return text
