"""Sentinel tools: what they are, calls that prove a format, and where calls of them stand in a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NAMES, KEYS = ("sentinel_one", "sentinel_two"), ("sent_alpha", "sent_beta")
"""The tools, and the arguments of the first and the second call."""
_STRING, _ANY = {"type": "string", "description": "a"}, {"type": "object", "description": "b"}

PROOFS: Sequence[tuple[str, Sequence[Mapping[str, Any]]]] = (
    ("", [{"sent_alpha": "Paris"}]),
    ("", [{"sent_alpha": "二加二 🦙", "count": 3, "exact": True}]),
    (
        "Let me look.",
        [{"sent_alpha": 'say "so" \\ {x}', "more": {"deep": [1, {"a": "b"}], "none": None}, "share": -0.5}],
    ),
    ("", [{"sent_alpha": "a <b> & c"}, {"sent_alpha": "second", "count": 0}]),
)
PARAMETERS = {
    "type": "object",
    "properties": {
        "sent_alpha": _STRING,
        "sent_beta": _STRING,
        "count": {"type": "integer", "description": "c"},
        "exact": {"type": "boolean", "description": "d"},
        "more": _ANY,
        "share": {"type": "number", "description": "e"},
    },
    "required": ["sent_alpha"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": PARAMETERS}}
    for name in NAMES
]


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
