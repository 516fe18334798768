"""The Markdown of the repository as its readers see it: headings with their anchors, links, fenced blocks.

A comment on the line before a fenced ``sh`` block says what the tests do with it. Without one, every command of
quantkit in it is parsed by the real command line; ``<!-- runs -->`` runs the block; ``<!-- not checked: REASON -->``
leaves it out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\S*).*$")
_MARK = re.compile(r"^ *<!-- (runs|not checked: \S.*) -->$")
_LINK = re.compile(r"!?\[[^\]\[]*(?:!\[[^\]]*\]\([^)]*\)[^\]\[]*)?\]\(([^()\s]+)\)")
# Between commands of a line of a shell; what is in parentheses is not taken apart.
_BETWEEN = {"|", "||", "&&", ";", "&"}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file.
        line: the line of the opening fence, from 1.
        language: what stands behind the fence; empty without one.
        text: between the fences.
        mark: the comment on the line before it, without its arrows; empty without one.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def where(self) -> str:
        """For the name of a test, and for what it says."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    def commands(self) -> list[str]:
        """The commands, one a line, without comments; a line that ends in a backslash goes on."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def pages() -> list[Path]:
    """Every Markdown file that people read, without those of fixtures and of the demo's models."""
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        end = at + 1
        while lines[end].strip() != opening["fence"]:
            end += 1
        mark = _MARK.match(lines[at - 1]) if at else None
        inside = "".join(line.removeprefix(opening["indent"]) + "\n" for line in lines[at + 1 : end])
        found.append(Block(page, at + 1, opening["language"], inside, mark[1] if mark else ""))
        at = end + 1
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^ *(`{3,}).*?^ *\1 *$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def headings(page: Path) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    return [(len(marks), text) for marks, text in re.findall(r"^(#{1,6}) (.+?) *$", prose(page), re.MULTILINE)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    found: set[str] = set()
    for _, text in headings(page):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


def links(page: Path) -> list[str]:
    """The targets of links and pictures; what is in backticks is none."""
    text = re.sub(r"`[^`\n]*`", "``", prose(page))
    return [*_LINK.findall(text), *re.findall(r'(?:src|href)="([^"]+)"', text)]


def resolve(page: Path, target: str) -> tuple[Path, str]:
    """The file and the anchor that a link of *page* leads to."""
    path, _, anchor = target.partition("#")
    return ((page.parent / path).resolve() if path else page), anchor


def words(line: str) -> Iterator[list[str]]:
    """The simple commands of a shell's line: without variables before them, and without what redirects."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    command: list[str] = []
    skip = False
    for word in lexer:
        if word in _BETWEEN:
            if command:
                yield command
            command = []
        elif set(word) <= {"<", ">"}:
            skip = True
        elif skip:
            skip = False
        elif command or not re.match(r"\w+=", word):
            command.append(word)
    if command:
        yield command
