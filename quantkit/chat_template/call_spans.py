"""Where the calls of sentinel tools stand in a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

NAMES, KEYS = ("sentinel_one", "sentinel_two"), ("sent_alpha", "sent_beta")
"""The tools, and the arguments of the first and the second call."""


def json_spans(text: str, needle: str) -> Iterator[tuple[int, int, Any]]:
    """Each JSON value that contains a text, and is in no other one: where it is, and the value."""
    decoder, at = json.JSONDecoder(), 0
    while (opened := re.compile(r"[{\[]").search(text, at)) is not None:
        try:
            value, end = decoder.raw_decode(text, opened.start())
        except ValueError:
            at = opened.end()
            continue
        if needle in text[opened.start() : end]:
            yield opened.start(), end, value
        at = end


def named_spans(text: str, needle: str) -> Iterator[tuple[int, int, Any]]:
    at = text.find(needle)
    if at >= 0:
        key = KEYS[NAMES.index(needle)]
        found = next((span for span in json_spans(text, key) if span[0] > at), None)
        if found is not None:
            yield at, found[1], found[2]


def text_between(text: str, spans: Any) -> str | None:
    first, second = (next(spans(text, name), None) for name in NAMES)
    return None if first is None or second is None else text[first[1] : second[0]]


def path_of(value: object, wanted: object) -> tuple[str, ...] | None:
    """The keys that lead to a value."""
    if value == wanted:
        return ()
    if isinstance(value, dict):
        for key, inner in value.items():
            if (rest := path_of(inner, wanted)) is not None:
                return (key, *rest)
    return None
