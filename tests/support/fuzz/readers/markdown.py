"""Markdown of the page: only elements and addresses that the page knows, and all of the code's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from quantkit.serve.page.highlight import CLASSES
from quantkit.serve.page.markdown import SCHEMES, render_markdown
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.worded import bytes_of, text_of

_WORDS = (
    *(
        "```python\n",
        "```",
        "~~~",
        "```js\n",
        "|a|b|\n|-|:-:|\n",
        "$$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "](",
        "![",
        "<script>",
    ),
    *(
        "javascript:",
        "http://",
        "mailto:",
        "data:",
        "[a]: ",
        "> ",
        "1. ",
        "- ",
        "* ",
        "**",
        "~~",
        "\n\n",
        "    ",
        "&#x",
    ),
    *(
        "&colon;",
        "//",
        "\t",
        "二",
        "🦙",
        "\u2028",
        "\u202e",
        "<a href=",
        "def f(x):\n",
        "{[(",
        ")]}",
        "\\",
        "#",
        "***\n",
    ),
)
_ELEMENTS = frozenset(
    {
        "p",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "blockquote",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    | {"em", "strong", "s", "a", "code", "pre", "br", "hr", "span"}
)
_ATTRIBUTES = frozenset({"class", "href", "lang", "start"})
_SEEDS = (
    "# a\n\nb **c** _d_ ~~e~~ `f` [g](http://h) ![i](mailto:j)\n\n1. k\n2. l\n\n> m\n\n---\n",
    "```python\ndef f(x):\n    return 'a' + x  # b\n```\n\n    code\n\n~~~\nx\n~~~\n",
    "|a|b|\n|-|:-:|\n|c|d|\n\n\\(x\\) $$y$$ \\[z\\] <script>alert(1)</script> [a](javascript:b)\n",
    "- a\n  - b\n    - c\n\n[x]: http://y\n[x]\n",
)


def _read(data: bytes) -> None:
    text = text_of(data, _WORDS)
    for plain in (False, True):
        for node in render_markdown(text, plain=plain):
            _check(node)


def _check(node: Any) -> None:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            one.encode()
            continue
        tag, attributes, children = one
        assert tag in _ELEMENTS, tag
        assert attributes.keys() <= _ATTRIBUTES, attributes
        if "href" in attributes:
            assert urlsplit(attributes["href"].strip("\0\t\n\r ")).scheme.lower() in SCHEMES, attributes
        assert attributes.get("class", "tex") in {"tex", "left", "center", "right", *CLASSES}
        waiting += children


def _seeds() -> Sequence[bytes]:
    return [bytes_of(seed, _WORDS) for seed in _SEEDS]


READER = Reader("markdown", _seeds, _read, seconds=4.0)
