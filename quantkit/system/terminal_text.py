"""Makes untrusted text safe for a terminal: models, templates and manifests may contain anything."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

# Escape sequences could change the terminal's title, colors or input; a symbol for the character is shown instead.
# Marks that change the text direction, and line ends other than \n, could make a line look like another one.
_SHOWN: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    ord("\r"): "",
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}"),
    **dict.fromkeys((0x2028, 0x2029), "\N{REPLACEMENT CHARACTER}"),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}"),
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),  # half a character, which cannot be written
}
# A first column is not made narrower.
_SHORTEST = 12


def harmless(text: str) -> str:
    """*text* without characters that a terminal would treat as commands."""
    return text.translate(_SHOWN)


def one_line(text: str) -> str:
    """The same, on one line."""
    return harmless(text).replace("\n", " ")


def fitted(text: str, width: int | None, indent: str = "") -> str:
    """One line of text made harmless, broken between words where it is wider than *width* columns.

    Args:
        text: the line.
        width: of the terminal, None for none, which leaves the line whole for programs.
        indent: what begins the further lines.
    """
    line = one_line(text)
    if width is None or len(line) <= width:
        return line
    return textwrap.fill(
        line, max(width, _SHORTEST), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None if it is none, or does not say."""
    return shutil.get_terminal_size((0, 0)).columns or None if sys.stdout.isatty() else None


def columns(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Lines of a table: columns as wide as what is in them, the first to the left, the others to the right.

    A Chinese character is two columns of a terminal wide.

    Args:
        rows: one or more cells each, made harmless here; shorter rows leave out the last columns.
        width: in a wider table long cells of the first column, which are names of files, lose their beginning.
    """
    from rich.cells import cell_len  # --help needs no rich

    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip_longest(*cells, fillvalue="")]
    if width is not None and (room := width - sum(widths[1:]) - 2 * len(widths[1:])) < widths[0]:
        widths[0] = max(_SHORTEST, room)
        cells = [[_ending(first, widths[0]), *others] for first, *others in cells]
    lines = []
    for first, *others in cells:
        line = first + " " * (widths[0] - cell_len(first))
        for cell, wide in zip(others, widths[1:], strict=False):
            line += " " * (2 + wide - cell_len(cell)) + cell
        lines.append(line.rstrip())
    return lines


def _ending(text: str, width: int) -> str:
    """The end of a text that is *width* columns wide, or one less where half of a Chinese character would be left."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    while cell_len(text) >= width:
        text = text[1:]
    return "…" + text
