"""A metadata entry from the text that a person writes for its value."""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Any

from quantkit.errors import GGUFError
from quantkit.gguf.kv import FORMATS, KV, KVType, array, string

_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")
_BOOLEANS = {"true": True, "false": False}


def read_kv(key: str, text: str, kind: KVType, item: KVType | None = None) -> KV:
    """The entry of a type whose value is written as a text.

    Args:
        key: its key.
        text: a number, ``true`` or ``false``, a text without quotes, or a JSON list.
        kind: its type.
        item: the type of an array's elements.

    Raises:
        GGUFError: the text is no such value, or too large for the type.
    """
    if kind is KVType.STRING:
        return string(key, text)
    if kind is not KVType.ARRAY:
        return KV(key, _value(key, text, kind), kind)
    assert item is not None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise _refused(key, text, f'a JSON list, such as ["a", "b"], of {item.name.lower()}')
    if item is KVType.STRING:
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise _refused(key, json.dumps(wrong[0]), "a text in quotes as an element")
        return array(key, values, item)
    return array(key, [_value(key, json.dumps(value), item) for value in values], item)


def _value(key: str, text: str, kind: KVType) -> Any:
    word = text.strip()
    if kind is KVType.BOOL:
        if word.lower() not in _BOOLEANS:
            raise _refused(key, text, "true or false")
        return _BOOLEANS[word.lower()]
    fmt = f"<{FORMATS[kind]}"
    if kind not in (KVType.FLOAT32, KVType.FLOAT64):
        if not _WHOLE.fullmatch(word):
            raise _refused(key, text, f"a whole number ({kind.name.lower()})")
    elif not math.isfinite(_float(word)):
        raise _refused(key, text, f"a number ({kind.name.lower()})")
    number = _float(word) if kind in (KVType.FLOAT32, KVType.FLOAT64) else int(word)
    try:
        return struct.unpack(fmt, struct.pack(fmt, number))[0]
    except (struct.error, OverflowError):
        raise _refused(key, text, f"a number that {kind.name.lower()} holds") from None


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _refused(key: str, text: str, expected: str) -> GGUFError:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return GGUFError(f"{key} is {shown!r}; expected {expected}", hint=f"write it as --set {key}=VALUE")
