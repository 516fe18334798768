"""Saved conversations on the page: its JavaScript reads what the terminal reads, and refuses the rest in words."""

from __future__ import annotations

import json
from collections.abc import Sequence

from quantkit.errors import QuantkitError
from quantkit.run.transcript import Conversation, load_conversation
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.page_import import read_saved
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file

_TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "c"}]
# Only Python has limits to nesting and to the digits of numbers.
_LIMITS = ("recursion", "digits")


def _seeds() -> Sequence[bytes]:
    system = {"role": "system", "content": "s"}
    return [
        json.dumps({"schema": 1, "model": "m", "messages": messages}).encode()
        for messages in ([system, *_TALK], [*_TALK, *_TALK], [system], [])
    ]


def _read(data: bytes) -> None:
    mine, why = _loaded(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        assert mine is None
        return
    found = read_saved(text)
    if "refused" in found:
        assert found["own"], f"no words of the page: {found['refused']}"
        assert 0 < len(found["refused"]) < 300
        assert mine is None, f"the page refuses what the terminal reads: {found['refused']}"
        return
    if mine is None:
        assert any(limit in why for limit in _LIMITS), f"the page reads what the terminal refuses: {why}"
        return
    again, why = _loaded(found["written"].encode())
    assert again is not None, why
    assert again.messages == mine.messages
    assert read_saved(found["written"])["read"] == found["read"]


def _loaded(data: bytes) -> tuple[Conversation | None, str]:
    try:
        return load_conversation(file("a.json", data)), ""
    except QuantkitError as error:
        return None, str(error)


READER = Reader(
    "page-import",
    _seeds,
    _read,
    JsonMutator(("schema", "messages", "role", "content", "reasoning_content", "user", "assistant", "system", "tool",
                 "__proto__", "toString", "length", "constructor", "content,role", 1.0, "m", _TALK[0], _TALK[1])),
)  # fmt: skip
