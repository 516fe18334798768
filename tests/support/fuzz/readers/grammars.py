"""Grammars that clients give: what passes the check of their size ends neither llama.cpp's parser nor its process."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.run.grammar_check import require_size
from quantkit.serve.schema_grammar import JSON_OBJECT
from tests.support.fuzz.llama_grammar import parse, prepare
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.worded import bytes_of, text_of

_WORDS = (
    *(
        "root ::= ",
        "a ::= ",
        "b ::= ",
        "\n",
        " | ",
        '"',
        "[",
        "]",
        "[^",
        "(",
        ")",
        "*",
        "+",
        "?",
        "{1,2}",
        "{",
        "}",
        ",",
        "{0,",
    ),
    *(
        "{500}",
        "{2000}",
        "{99999999999}",
        "\\n",
        "\\x41",
        "\\u00e9",
        "\\U0010FFFF",
        "\\x",
        "\\]",
        "-",
        ".",
        "#",
        "<",
        ">",
        "<[1]>",
    ),
    *(
        "!<a>",
        "é",
        "🦙",
        "\u2028",
        "a",
        "b",
        "root",
        "a-b",
        "::=",
        "0",
        "\t",
        "\r\n",
        "((((((((",
        "))))))))",
        "a a a a ",
        "''",
    ),
)
_SEEDS = (
    'root ::= "a" | [a-z]+ b\nb ::= ("c" d)? {1,3}\nd ::= [^\\n\\x41-\\u00e9]*\n',
    "root ::= a{1,2} # note\na ::= ( b | . )* \nb ::= <[1]> | !<a>\n",
    f"root ::= answer\n{JSON_OBJECT}",
)


def _read(data: bytes) -> None:
    text = text_of(data, _WORDS).replace("\0", "")
    require_size(text)
    parse(text)


def _seeds() -> Sequence[bytes]:
    prepare()
    return [bytes_of(seed, _WORDS) for seed in _SEEDS]


READER = Reader("grammars", _seeds, _read, memory=1 << 30)
