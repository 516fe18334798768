"""Reads calls that are written as Python writes them, as LFM2 does: ``[look(at='x', n=3), find()]``.

Strings are in either quotes. As in llama.cpp, the words of JSON (``true``, ``null``) are values too. A backslash that
escapes nothing stays as it is: templates write strings without escaping them.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from quantkit.chat_template.said_json import read_value

_BLANK = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z0-9_.:-]+(?=\s*\()")
_KEY = re.compile(r"(\w+)\s*=\s*")
_SCALAR = re.compile(r"[^\s,{}\[\]()'\"=:]+(?=\s*[,}\]):])")
# Runs of plain characters at once: an unfinished string is looked at again with each piece.
_STRING = {q: re.compile(rf"{q}([^{q}\\]*+(?:\\.[^{q}\\]*+)*+){q}", re.DOTALL) for q in "'\""}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "/": "/"}
_DEEPEST = 64

PythonCall = tuple[str, dict[str, Any]]


def read_python_calls(text: str, at: int, names: Container[str]) -> tuple[list[PythonCall], int] | None:
    """The calls in a list that begins there, and where the text behind it does; None if it is none, or not complete.

    Args:
        text: the text.
        at: where the list begins.
        names: the functions that can be called.
    """
    if not text.startswith("[", at):
        return None
    calls: list[PythonCall] = []
    at += 1
    while not text.startswith("]", at := _blank(text, at)):
        if calls:
            if not text.startswith(",", at):
                return None
            at = _blank(text, at + 1)
        found = _read_call(text, at, names)
        if found is None:
            return None
        call, at = found
        calls.append(call)
    return (calls, at + 1) if calls else None


def _read_call(text: str, at: int, names: Container[str]) -> tuple[PythonCall, int] | None:
    name = _NAME.match(text, at)
    if name is None or name[0] not in names:
        return None
    arguments: dict[str, Any] = {}
    at = _blank(text, name.end()) + 1
    while not text.startswith(")", at := _blank(text, at)):
        if arguments:
            if not text.startswith(",", at):
                return None
            at = _blank(text, at + 1)
        key = _KEY.match(text, at)
        found = None if key is None else _read_value(text, key.end(), 0)
        if key is None or found is None:
            return None
        arguments[key[1]], at = found
    return (name[0], arguments), at + 1


def _read_value(text: str, at: int, depth: int) -> tuple[Any, int] | None:
    first = text[at : at + 1]
    if depth > _DEEPEST or not first:
        return None
    if first in _STRING:
        string = _STRING[first].match(text, at)
        return None if string is None else _unescaped(string)
    if first in "{[":
        return _read_several(text, at, depth)
    scalar = _SCALAR.match(text, at)
    if scalar is None:
        return None
    try:
        return read_value(scalar[0]), scalar.end()
    except ValueError:
        return None


def _read_several(text: str, at: int, depth: int) -> tuple[Any, int] | None:
    close, values, members = {"{": "}", "[": "]"}[text[at]], list[Any](), dict[str, Any]()
    named, at = text[at] == "{", at + 1
    while not text.startswith(close, at := _blank(text, at)):
        if values or members:
            if not text.startswith(",", at):
                return None
            at = _blank(text, at + 1)
        key = _read_value(text, at, depth + 1) if named else None
        if named:
            if key is None or not isinstance(key[0], str) or not text.startswith(":", at := _blank(text, key[1])):
                return None
            at = _blank(text, at + 1)
        found = _read_value(text, at, depth + 1)
        if found is None:
            return None
        value, at = found
        if key is None:
            values.append(value)
        else:
            members[key[0]] = value
    return (members if named else values), at + 1


def _unescaped(string: re.Match[str]) -> tuple[str, int] | None:
    text = _ESCAPE.sub(_character, string[1])
    try:
        # Two escapes can be one character, as in JSON.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le"), string.end()
    except UnicodeDecodeError:
        return None


def _character(found: re.Match[str]) -> str:
    escape = found[1]
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    return _ESCAPED.get(escape, found[0])


def _blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return at if found is None else found.end()
