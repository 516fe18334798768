"""How JSON values are written: as JSON, or with quotes of a format's own and bare keys, as Gemma 4 calls tools."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quantkit.errors import QuantkitError
from quantkit.run.gbnf import literal, text_without

FORMATS = {
    "date": "date",
    "time": "time",
    "date-time": 'date "T" time',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
"""The formats of strings."""

_SHARED = {
    "space": r'| " " | "\n" [ \t]{0,20}',
    "hex": "[0-9a-fA-F]",
    "natural": '"0" | [1-9] [0-9]{0,15}',
    "integer": '"-"? natural',
    "fraction": '("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "number": '"-"? natural fraction',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "array": '"[" space (value ("," space value)*)? "]"',
    "object": '"{" space (key space ":" space value ("," space key space ":" space value)*)? "}"',
    "value": "(object | array | string | number | boolean | null) space",
    "digit": "[0-9]",
    "date": '[12] digit{3} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])',
    "time": '([01] digit | "2" [0-3]) ":" [0-5] digit ":" [0-5] digit ("." digit{1,6})? '
    '("Z" | [-+] ([01] digit | "2" [0-3]) ":" [0-5] digit)',
}
_BARE_KEY = re.compile(r"[^\s:,{}\[\]]+")
# Whole characters only: llama.cpp would let a byte that is none pass for one.
_BEYOND_ASCII = r"\u0080-\uD7FF\uE000-\uFFFF\U00010000-\U0010FFFF"


class SchemaError(QuantkitError):
    """A schema is none, or has what a grammar cannot hold."""


@dataclass(frozen=True)
class Dialect:
    """A way to write values.

    Attributes:
        rules: those that every grammar has: string, char, key, value, object, and so on.
        quote: what is around a string, as GBNF.
        literal: a value as GBNF.
        key: the name of a property as GBNF.
    """

    rules: Mapping[str, str]
    quote: str
    literal: Callable[[object], str]
    key: Callable[[str], str]


def _json(value: object) -> str:
    return literal(json.dumps(value, ensure_ascii=False))


JSON = Dialect(
    rules={
        **_SHARED,
        "char": r"[\x20\x21\x23-\x5B\x5D-\x7E\u0080-\uD7FF\uE000-\uFFFF\U00010000-\U0010FFFF] | "
        r'"\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] hex hex hex | [dD] [0-7] hex hex))',
        "string": r'"\"" char* "\""',
        "key": "string",
    },
    quote=r'"\""',
    literal=_json,
    key=_json,
)


def quoted(mark: str) -> Dialect:
    """Values whose strings have a marker on each side and nothing escaped, with bare keys."""
    quote = literal(mark)

    def written(value: object) -> str:
        return literal(_bare(value, mark))

    return Dialect(
        rules={
            **_SHARED,
            **text_without(mark, "unmarked"),
            "char": character_but(mark[0]),
            "string": f"{quote} unmarked {quote}",
            "key": "[A-Za-z0-9_.-]{1,64}",
        },
        quote=quote,
        literal=written,
        key=_bare_key,
    )


def character_but(*characters: str) -> str:
    """One character, but none of these of ASCII."""
    ascii_left = "".join(f"\\x{at:02X}" for at in range(0x20, 0x7F) if chr(at) not in characters)
    return f"[{ascii_left}{_BEYOND_ASCII}]"


def _bare_key(name: str) -> str:
    if not _BARE_KEY.fullmatch(name):
        raise SchemaError(f"the name {name!r:.80} cannot stand without quotes, as this model's calls have it")
    return literal(name)


def _bare(value: object, mark: str) -> str:
    if isinstance(value, str):
        return f"{mark}{value}{mark}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_bare(inner, mark)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_bare(inner, mark) for inner in value) + "]"
    return json.dumps(value)
