"""Sentinel tools: what they are, calls that prove a format, and where calls of them stand in a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantkit.chat_template.answer_format import ARGUMENTS, ID, NAME, NUMBER

NAMES, KEYS = ("sentinel_one", "sentinel_two"), ("sent_alpha", "sent_beta")
"""The tools, and the arguments of the first and the second call."""
IDS = ("SentCall1", "SentCall2")
"""Their ids, of nine letters and digits, as some templates require."""
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


def layout_of(value: object, arguments: object) -> str:
    """A call's JSON with the places of what changes, as text.

    Args:
        value: as the template wrote it, alone or in a list.
        arguments: its arguments.
    """
    return json.dumps(_places(value, arguments), ensure_ascii=False)


def _places(value: object, arguments: object) -> object:
    if value == arguments:
        return ARGUMENTS
    if isinstance(value, list):
        return [_places(item, arguments) for item in value]
    if isinstance(value, dict):
        return {NAME if key == NAMES[0] else key: _places(inner, arguments) for key, inner in value.items()}
    if isinstance(value, str):
        return NAME if value == NAMES[0] else ID if value == IDS[0] else NUMBER if value.isdigit() else value
    return value
