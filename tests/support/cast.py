"""Recordings of a terminal in asciinema's format, and a picture of their last screen."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from html import unescape
from io import StringIO
from itertools import groupby
from operator import itemgetter
from typing import Self

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME as _THEME
from rich.text import Text

VERSION = 2  # https://docs.asciinema.org/manual/asciicast/v2/

# The picture takes no font from elsewhere.
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
)
# The width of a text, and the text.
_LENGTH = re.compile(r'textLength="([\d.]+)"([^>]*)>([^<]+)<')


@dataclass
class Cast:
    """What a terminal showed, and when.

    Attributes:
        columns: its width.
        lines: its height.
        events: seconds since the beginning, and what came then.
    """

    columns: int
    lines: int
    events: list[tuple[float, str]] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    def add(self, text: str) -> None:
        """Record what comes now."""
        self.events.append((round(time.monotonic() - self._begun, 3), text))

    def to_text(self) -> str:
        """The file: a header, and a line for each event."""
        head = {"version": VERSION, "width": self.columns, "height": self.lines}
        rows = ([seconds, "o", text] for seconds, text in self.events)
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *rows))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what :meth:`to_text` wrote."""
        head, *rows = map(json.loads, text.splitlines())
        assert head["version"] == VERSION
        return cls(head["width"], head["height"], [(seconds, shown) for seconds, _, shown in rows])


def draw(cast: Cast, title: str) -> str:
    """The last screen as SVG."""
    screen = followed(cast)
    console = Console(record=True, width=cast.columns, file=StringIO(), force_terminal=True, legacy_windows=False)
    for line in screen_lines(screen):
        console.print(line, no_wrap=True, overflow="ignore", crop=False)
    drawn = console.export_svg(title=title, theme=_THEME, code_format=_FORMAT, unique_id="terminal")
    return _LENGTH.sub(_true_length, drawn)


def _true_length(found: re.Match[str]) -> str:
    """The width of a text: rich counts characters there, not columns."""
    text = unescape(found[3])
    length = float(found[1]) * cell_len(text) / len(text)
    return f'textLength="{length:g}"{found[2]}>{found[3]}<'


def followed(cast: Cast) -> pyte.Screen:
    """The screen at the end."""
    screen = pyte.Screen(cast.columns, cast.lines)
    stream = pyte.Stream(screen)
    for _, text in cast.events:
        stream.feed(text.replace("\x1b[2m", "\x1b[90m"))  # pyte knows no dim text, and grey is what it looks like
    return screen


def screen_lines(screen: pyte.Screen) -> list[Text]:
    """Its lines with their styles, without the empty ones at the end."""
    lines = []
    for row in range(screen.lines):
        cells = (screen.buffer[row][column] for column in range(screen.columns))
        styled = ((cell.data, _style(cell)) for cell in cells if cell.data)  # the second half of a wide one has none
        text = Text()
        for style, same in groupby(styled, itemgetter(1)):
            text.append("".join(map(itemgetter(0), same)), style)
        text.rstrip()
        lines.append(text)
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def _style(cell: pyte.screens.Char) -> Style:
    name = cell.fg.replace("brown", "yellow").replace("bright", "bright_")
    colour = None if name == "default" else f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else name
    # Text of wide characters stands by itself, because its letters have another width.
    wide = {"wide": True} if cell_len(cell.data) == 2 else {}
    return Style(bold=cell.bold, italic=cell.italics, color=colour, meta=wide)
