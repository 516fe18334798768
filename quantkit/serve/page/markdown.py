"""Markdown as a tree of the few elements that the page builds: a model's text never becomes HTML that is parsed.

markdown-it-py reads CommonMark with tables and strikethrough; HTML stays text. A single line end is a line break, as
models mean it. TeX in ``\\(...\\)``, ``\\[...\\]`` and ``$$...$$`` is kept as it is written.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from quantkit.serve.page.highlight import highlight

Node = str | list[Any]
"""Text, or ``[tag, attributes, children]``."""

MAX_TEXT = 65_536
"""The longest text in characters; the page shows longer ones as they are."""

SCHEMES = frozenset({"http", "https", "mailto"})
"""Where a link may lead."""

_DEEPEST = 32  # elements inside of each other; emphasis alone could nest thousands
_ALIGNED = {"text-align:left": "left", "text-align:center": "center", "text-align:right": "right"}
_TEX = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
_LONGEST_TEX = 2000  # characters; a search to the end at every mark would take quadratic time


def render_markdown(text: str, *, plain: bool = False) -> list[Node]:
    """Return the nodes of a text of at most :data:`MAX_TEXT` characters; *plain*: without the syntax of code."""
    tree = _Tree(plain=plain)
    for token in _PARSER.parse(text):
        tree.add(token)
    return tree.top


def _tex(state: StateInline, silent: bool) -> bool:
    """Rule: TeX up to its end mark; without one, the mark is text like any other."""
    mark = state.src[state.pos : state.pos + 2]
    if mark not in _TEX or (end := _end_of_tex(state.src, mark, state.pos + 2)) < 0:
        return False
    if not silent:
        state.push("tex", "code", 0).content = state.src[state.pos : end + 2]
    state.pos = end + 2
    return True


def _end_of_tex(text: str, mark: str, start: int) -> int:
    return text.find(_TEX[mark], start, start + _LONGEST_TEX)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.inline.ruler.before("escape", "tex", _tex)
    return parser


_PARSER = _parser()


class _Tree:
    """Nodes in the making. The parser's tokens are flat, so no depth of nesting can exhaust the stack."""

    def __init__(self, *, plain: bool) -> None:
        self.top: list[Node] = []
        self._plain = plain
        self._open = [self.top]

    def add(self, token: Token) -> None:
        """Add what a token stands for."""
        match token.type:
            case "inline":
                for child in token.children or ():
                    self.add(child)
            case "softbreak" | "hardbreak":
                self._put(["br", {}, []])
            case "hr":
                self._put(["hr", {}, []])
            case "code_inline" | "tex":
                self._put(["code", {"class": "tex"} if token.type == "tex" else {}, [token.content]])
            case "fence" | "code_block":
                language = (token.info.split() or [""])[0]
                self._put(["pre", {"lang": language}, self._code(token.content, language)])
            case "image":  # no request leaves the page: a picture is a link to it
                self._put_link(str(token.attrGet("src") or ""), token.content)
            case _ if token.nesting > 0:
                self._begin(token)
            case _ if token.nesting < 0:
                self._open.pop()
            case _:
                self._put(token.content)

    def _code(self, code: str, language: str) -> list[Node]:
        return [code] if self._plain else highlight(code, language)

    def _put(self, node: Node) -> None:
        self._open[-1].append(node)

    def _put_link(self, target: str, text: str) -> None:
        said = text or target
        self._put(["a", {"href": target}, [said]] if _is_safe(target) else said)

    def _begin(self, token: Token) -> None:
        attributes = _attributes(token)
        if token.hidden or attributes is None or len(self._open) > _DEEPEST:
            self._open.append(self._open[-1])  # its children belong to what is around it
            return
        children: list[Node] = []
        self._put([token.tag, attributes, children])
        self._open.append(children)


def _attributes(token: Token) -> dict[str, Any] | None:
    """The attributes of an element; None for an element that is left out, such as a link to a script."""
    match token.type:
        case "link_open":
            target = str(token.attrGet("href") or "")
            return {"href": target} if _is_safe(target) else None
        case "ordered_list_open":
            start = token.attrGet("start")
            return {} if start is None else {"start": start}
        case "th_open" | "td_open":
            aligned = _ALIGNED.get(str(token.attrGet("style")))
            return {"class": aligned} if aligned else {}
    return {}


def _is_safe(target: str) -> bool:
    try:
        return urlsplit(target).scheme.lower() in SCHEMES
    except ValueError:
        return False
