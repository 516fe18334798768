"""What the server makes of Markdown for the page: few elements, safe links, and nothing of the text lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from quantkit.serve.errors import RequestError
from quantkit.serve.page.assets import read_assets
from quantkit.serve.page.highlight import CLASSES, MAX_CODE, highlight
from quantkit.serve.page.markdown import MAX_TEXT, render_markdown
from quantkit.serve.page.rendering import Renderer
from quantkit.system.limited_process import Limits

ANSWER = """# Title

Some **bold**, *slanted* and ~~wrong~~ text
on two lines, `code` and \\(a_1\\).

3. three
4. four
   - inner

> said

| left | middle | right |
|:-----|:------:|------:|
| 1 | 2 | 3 |

```python
def f(x):
    return "x"  # why
```

    indented

---

[link](https://example.org/?a=1&b=2 "title") <a@example.org> ![a picture](http://example.org/a.png)
"""


def elements(nodes: list[Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each element with its attributes and its text."""
    for node in nodes:
        if not isinstance(node, str):
            tag, attributes, children = node
            yield tag, attributes, text(children)
            yield from elements(children)


def text(nodes: list[Any]) -> str:
    return "".join(node if isinstance(node, str) else text(node[2]) for node in nodes)


def test_an_answer() -> None:
    found = list(elements(render_markdown(ANSWER)))
    for expected in [
        ("h1", {}, "Title"),
        ("strong", {}, "bold"),
        ("em", {}, "slanted"),
        ("s", {}, "wrong"),
        ("br", {}, ""),
        ("code", {}, "code"),
        ("code", {"class": "tex"}, "\\(a_1\\)"),
        ("ol", {"start": 3}, "\nthree\nfourinner".replace("\n", "")),
        ("td", {"class": "left"}, "1"),
        ("td", {"class": "center"}, "2"),
        ("td", {"class": "right"}, "3"),
        ("pre", {"lang": "python"}, 'def f(x):\n    return "x"  # why\n'),
        ("span", {"class": "keyword"}, "def"),
        ("span", {"class": "comment"}, "# why"),
        ("pre", {"lang": ""}, "indented\n"),
        ("hr", {}, ""),
        ("a", {"href": "https://example.org/?a=1&b=2"}, "link"),
        ("a", {"href": "mailto:a@example.org"}, "a@example.org"),
        ("a", {"href": "http://example.org/a.png"}, "a picture"),
    ]:
        assert expected in found, expected
    assert ("p", {}, "said") in found
    assert json.loads(json.dumps(render_markdown(ANSWER))) == render_markdown(ANSWER)


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a <b onmouseover=alert(1)>b</b>",
        "<svg><a xlink:href='javascript:alert(1)'>x</a></svg>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&colon;alert(1))",
        "[x](\x01javascript:alert(1))",
        "[x](vbscript:x)",
        "[x](data:text/html,<script>alert(1)</script>)",
        "[x](data:image/png;base64,AAAA)",
        "[x](file:///etc/passwd)",
        "[x](//example.org/)",
        "[x](/v1/models)",
        "[x](page/main.js)",
        "<javascript:alert(1)>",
        "![x](javascript:alert(1))",
        "![x](data:image/svg+xml,<svg onload=alert(1)>)",
        "[x]: javascript:alert(1)\n\n[x]",
    ],
)
def test_nothing_but_text_comes_of_what_is_hostile(hostile: str) -> None:
    nodes = render_markdown(hostile)
    assert [tag for tag, _, _ in elements(nodes) if tag != "p"] == []
    assert text(nodes)


def test_what_the_page_allows_is_what_the_server_sends() -> None:
    """The page builds no other element and knows a colour for each class."""
    page = read_assets()
    (allowed,) = re.findall(r'PLAIN = new Set\(\s*"([^"]*)"', page["markdown.js"])
    (classes,) = re.findall(r'CLASSES = new Set\(\s*\("([^"]*)"', page["markdown.js"])
    headings = "\n\n".join(f"{'#' * level} h" for level in range(1, 7))
    sent = {tag for tag, _, _ in elements(render_markdown(f"{ANSWER}\n\n{headings}"))} - {"pre"}
    assert sent <= set(allowed.split())
    assert set(classes.split()) == {*CLASSES, "left", "center", "right", "tex"}
    for name in CLASSES:
        assert f".code .{name}" in page["answer.css"], name


def test_code_is_never_changed() -> None:
    """Not its line ends, tabs or blank lines either."""
    code = "\n\n\tdef f(x):  \r\n  'é' \"<b>&amp;\" {% x %} /* 字 */ // 🙂 # \x0b\x00 `\\\n\n"
    for language in ("python", "c++", "js", "ts", "html", "json", "bash", "sql", "yaml", "latex", "rust"):
        nodes = highlight(code, language)
        assert text(nodes) == code, language
        assert len(nodes) > 1, language
    assert highlight(code, "no such language") == [code]


def test_long_code_stays_text() -> None:
    line = "x = 1\n"
    assert len(highlight(line * (MAX_CODE // len(line)), "Python")) > 100
    longer = line * (MAX_CODE // len(line) + 1)
    assert highlight(longer, "python") == [longer]


@pytest.mark.parametrize("piece", ["*a **b ", "> ", "- a\n  ", "\\(", "`a``", "|a"])
def test_depth_exhausts_no_stack(piece: str) -> None:
    json.dumps(render_markdown((piece * 20_000)[:20_000]))


def test_what_takes_too_long_is_stopped() -> None:
    """Code stays text where the pattern of a language never ends; other text is refused, and the next is rendered."""
    code = "(" * 15_000
    with Renderer(Limits(seconds=0.25, wall=20.0)) as renderer:
        assert renderer.nodes(f"```html+ng2\n{code}\n```") == [["pre", {"lang": "html+ng2"}, [f"{code}\n"]]]
        with pytest.raises(RequestError, match="the Markdown takes") as stopped:
            renderer.nodes("![a](" * (MAX_TEXT // 5))
        assert stopped.value.status == 413
        assert renderer.nodes("*a*") == [["p", {}, [["em", {}, ["a"]]]]]
        with pytest.raises(RequestError, match=f"longer than {MAX_TEXT} characters"):
            renderer.nodes("a" * (MAX_TEXT + 1))
