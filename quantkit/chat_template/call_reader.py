"""Reads the calls of tools in what a model says, in the format that its chat template writes.

Only a call of a tool that was offered is a call; everything else stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from quantkit.chat_template.answer_format import CallFormat, CallKind
from quantkit.chat_template.python_calls import read_python_calls
from quantkit.chat_template.quoted_json import read_quoted
from quantkit.chat_template.said_json import read_value, written

_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_JSON = json.JSONDecoder()
_BLANK = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s,;]*")

Tools = Mapping[str, Mapping[str, Any]]
"""The tools that were offered: name to the JSON schema of the parameters."""


@dataclass(frozen=True)
class Call:
    """A call of a tool.

    Attributes:
        name: the tool's name.
        arguments: JSON text.
        id: the model's own id for it, "" if it gave none.
    """

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True)
class Calls:
    """What was read of a text that begins with calls.

    Attributes:
        calls: the complete ones.
        end: where the text behind them begins.
    """

    calls: tuple[Call, ...]
    end: int


def read_calls(form: CallFormat, text: str, tools: Tools) -> Calls:
    """Read the calls at the beginning of a text, which may go on: those that are complete.

    Args:
        form: how calls are written.
        text: what the model says, from the first marker on.
        tools: the tools that were offered.
    """
    at = _skip(form.section.open, text, 0)
    if at is None:
        return Calls((), 0)
    calls: list[Call] = []
    end = 0
    while (found := _read_one(form, text, at, tools)) is not None:
        calls += found[0]
        end = _skip_maybe(form.call.close, text, found[1])
        at = _match_end(_BETWEEN, text, end)
        if not form.several:
            break
    if calls:
        end = _skip_maybe(form.section.close, text, end)
    return Calls(tuple(calls), end)


def _read_one(form: CallFormat, text: str, at: int, tools: Tools) -> tuple[list[Call], int] | None:
    if form.kind is CallKind.ADDRESSED:
        return _read_addressed(form, text, at, tools)
    start = _skip(form.call.open, text, at)
    if start is None:
        return None
    start = _match_end(_BLANK, text, start)
    if form.kind is CallKind.JSON:
        return _read_json(form, text, start, tools)
    if form.kind is CallKind.PYTHON:
        read_list = read_python_calls(text, start, tools)
        return read_list and _all([_call(*one) for one in read_list[0]], read_list[1])
    first = ""
    if form.id_first:
        first, mark, _ = text[start:].partition(form.id_first)
        start += len(first) + len(mark)
    name = max((name for name in tools if text.startswith(name, start)), key=len, default=None)
    if name is None:
        return None
    if form.id_first:
        made = _read_named(form, text, start + len(name), name, tools)
        return made and ([replace(call, id=first.strip()) for call in made[0]], made[1])
    read = {CallKind.NAMED: _read_named, CallKind.QUOTED: _read_quoted}.get(form.kind, _read_tagged)
    return read(form, text, start + len(name), name, tools)


def _call(name: str, arguments: object, number: str = "") -> Call | None:
    """A call; None if its arguments are no object that can be sent."""
    text = written(arguments) if isinstance(arguments, dict) else None
    return None if text is None else Call(name, text, number)


def _all(calls: Sequence[Call | None], end: int) -> tuple[list[Call], int] | None:
    """Calls that end there, if each is one."""
    made = [call for call in calls if call is not None]
    return (made, end) if made and len(made) == len(calls) else None


def _read_json(form: CallFormat, text: str, at: int, tools: Tools) -> tuple[list[Call], int] | None:
    found = _decode(text, at)
    if found is None:
        return None
    values = found[0] if isinstance(found[0], list) else [found[0]]
    return _all([_call_of(form, value, tools) for value in values], found[1])


def _call_of(form: CallFormat, value: object, tools: Tools) -> Call | None:
    if not form.name:
        if not isinstance(value, dict) or len(value) != 1:
            return None
        ((name, arguments),) = value.items()
    else:
        name, arguments = _at(value, form.name), _at(value, form.arguments)
    if not isinstance(name, str) or name not in tools:
        return None
    number = _at(value, form.id) if form.id else ""
    return _call(name, arguments, number if isinstance(number, str) and written(number) is not None else "")


def _at(value: object, keys: Sequence[str]) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _read_named(form: CallFormat, text: str, at: int, name: str, tools: Tools) -> tuple[list[Call], int] | None:
    number = ""
    if form.id_marks is not None:
        start = _skip(form.id_marks.open, text, at)
        end = -1 if start is None else text.find(form.id_marks.close, start)
        if start is not None and end >= 0:
            number, at = text[start:end].strip(), end
            if form.numbered:  # the id is the whole of it, as in functions.look:0
                number = form.call.open.rpartition(">")[2] + name + form.id_marks.open + number
    start = _skip(form.after_name, text, at)
    found = None if start is None else _decode(text, _match_end(_BLANK, text, start))
    return found and _all([_call(name, found[0], number)], found[1])


def _read_quoted(form: CallFormat, text: str, at: int, name: str, tools: Tools) -> tuple[list[Call], int] | None:
    start = _skip(form.after_name, text, at)
    found = None if start is None else read_quoted(text, start, form.value)
    return found and _all([_call(name, found[0])], found[1])


def _read_addressed(form: CallFormat, text: str, at: int, tools: Tools) -> tuple[list[Call], int] | None:
    header, _, behind = text[at:].partition(form.after_name)
    name = re.search(re.escape(form.call.open) + r"([\w.-]+)", header)
    start = len(text) - len(behind)
    found = _decode(text, _match_end(_BLANK, text, start))
    if name is None or name[1] not in tools:
        return None
    return found and _all([_call(name[1], found[0])], found[1])


def _read_tagged(form: CallFormat, text: str, at: int, name: str, tools: Tools) -> tuple[list[Call], int] | None:
    start = _skip(form.after_name, text, at)
    if start is None:
        return None
    at, arguments = start, dict[str, Any]()
    while (start := _skip(form.key.open, text, at)) is not None:
        end = text.find(form.key.close.split()[0], start)
        behind = None if end < 0 else _skip(form.key.close, text, end)
        other = None if behind is not None or not form.other_key else _skip(form.other_key, text, end)
        if end < 0 or (behind is None and other is None):
            return None
        key, begin = text[start:end].strip(), behind or other or 0
        found = _read_value(form, text, begin)
        if found is None:
            return None
        schema = {"type": "object"} if other else {} if form.other_key else _schema(tools[name], key)
        arguments[key] = _value(found[0], schema, lines=form.lines)
        at = found[1]
    if _skip(form.call.close, text, at) is None:
        return None  # more arguments may follow
    return _all([_call(name, arguments)], at)


def _read_value(form: CallFormat, text: str, at: int) -> tuple[str, int] | None:
    """The text of a value, and where what is behind it begins."""
    if form.cdata and text.startswith(_CDATA, at):
        inside, mark, _ = text[at + len(_CDATA) :].partition(_CDATA_END)
        close = _skip(form.value, text, at + len(_CDATA) + len(inside) + len(mark)) if mark else None
        return None if close is None else (inside, close)
    found = _find(form.value, text, at)
    return None if found is None else (text[at : found[0]], found[1])


def _schema(parameters: Mapping[str, Any], key: str) -> object:
    properties = parameters.get("properties")
    return properties.get(key, {}) if isinstance(properties, dict) else {}


def _value(text: str, schema: object, *, lines: bool) -> object:
    """An argument's value: text where the schema allows a string, else JSON if it is."""
    if lines:
        text = text.removeprefix("\n").removesuffix("\n")
    if may_be_string(schema):
        return text
    try:
        return read_value(text.strip())
    except ValueError:
        return text


def may_be_string(schema: object) -> bool:
    """Whether a JSON schema allows a string, as llama.cpp decides it."""
    if not isinstance(schema, dict):
        return True
    for key in ("anyOf", "oneOf"):
        if isinstance(several := schema.get(key), list):
            return any(map(may_be_string, several))
    if "const" in schema:
        return isinstance(schema["const"], str)
    if isinstance(values := schema.get("enum"), list):
        return any(isinstance(value, str) for value in values)
    kind = schema.get("type", "string")
    return "string" in kind if isinstance(kind, list) else kind == "string"


def _decode(text: str, at: int) -> tuple[Any, int] | None:
    if text[at : at + 1] not in ("{", "["):
        return None
    try:
        return _JSON.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None


def _skip(marker: str, text: str, at: int) -> int | None:
    """Where a text goes on behind a marker and the white space before it; None if the marker is not there."""
    found = _loose(marker).match(text, at)
    return None if found is None else found.end()


def _skip_maybe(marker: str, text: str, at: int) -> int:
    return at if (end := _skip(marker, text, at)) is None else end


def _find(marker: str, text: str, at: int) -> tuple[int, int] | None:
    found = re.compile(_pattern(marker)).search(text, at)
    return None if found is None else found.span()


def _match_end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


@lru_cache(maxsize=256)
def _loose(marker: str) -> re.Pattern[str]:
    return re.compile((r"\s*" if marker else "") + _pattern(marker))


def _pattern(marker: str) -> str:
    """A marker as a regular expression: line ends inside of it may be any white space, and none."""
    parts = re.split(r"(\s+)", marker)
    return "".join(r"\s*" if "\n" in part and not part.strip() else re.escape(part) for part in parts)
