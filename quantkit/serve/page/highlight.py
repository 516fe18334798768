"""Code with its syntax marked by pygments, in few classes."""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from pygments.lexer import Lexer
from pygments.lexers import find_lexer_class, get_all_lexers
from pygments.token import Comment, Generic, Keyword, Literal, Name, Number, Operator, String, _TokenType

MAX_CODE = 20_000
"""The longest code in characters that is marked."""

# The first that a token belongs to counts; style.css has their colours.
_CLASSES = (
    (Comment, "comment"),
    (Generic.Inserted, "inserted"),
    (Generic.Deleted, "deleted"),
    (Generic.Heading, "heading"),
    (Generic.Subheading, "heading"),
    (Keyword, "keyword"),
    (Operator.Word, "keyword"),
    (Name.Tag, "keyword"),
    (Name.Builtin, "builtin"),
    (Name.Function, "function"),
    (Name.Class, "function"),
    (Name.Decorator, "function"),
    (Name.Attribute, "attribute"),
    (String, "string"),
    (Number, "number"),
    (Literal, "number"),
)
CLASSES = frozenset(name for _, name in _CLASSES)
"""The classes that code can have."""


def highlight(code: str, language: str) -> list[Any]:
    """Return the nodes of *code*: text, and ``["span", {"class": ...}, [text]]``.

    A language that pygments does not know, and code that is too long, stay text. The text is never changed.

    Args:
        code: the code.
        language: its name as in a fence of Markdown, "" for none.
    """
    lexer = _lexer(language.lower()) if len(code) <= MAX_CODE else None
    if lexer is None:
        return [code]
    runs: list[tuple[str, str]] = []
    done = 0
    for start, kind, text in lexer.get_tokens_unprocessed(code):
        if start != done:
            break
        done += len(text)
        runs.append((_class(kind), text))
    runs.append(("", code[done:]))
    joined = ((name, "".join(text for _, text in run)) for name, run in groupby(runs, itemgetter(0)))
    return [["span", {"class": name}, [text]] if name else text for name, text in joined if text]


@cache
def _names() -> dict[str, str]:
    """Alias -> name of each of pygments' own lexers; other packages' are never loaded."""
    return {alias: name for name, aliases, _, _ in get_all_lexers(plugins=False) for alias in aliases}


@cache
def _lexer(alias: str) -> Lexer | None:
    found = find_lexer_class(_names().get(alias, ""))
    return found() if found else None


@lru_cache(maxsize=512)
def _class(kind: _TokenType) -> str:
    return next((name for group, name in _CLASSES if kind in group), "")
