"""Words of an answer stay whole at the edge of a terminal, however the answer comes in pieces."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from quantkit.run.word_wrap import WordWrap

WIDTH = 12


def screen(sent: str) -> list[str]:
    """The lines that a terminal shows; it would break those that are too long itself."""
    lines = [""]
    for part in re.findall(r"\x1b\[\d+[DK]|\x1b\[K|\n|[^\x1b\n]", sent):
        if part == "\n":
            lines.append("")
        elif back := re.fullmatch(r"\x1b\[(\d+)D", part):
            for _ in range(int(back[1])):
                assert cell_len(lines[-1][-1]) == 1
                lines[-1] = lines[-1][:-1]
        elif part != "\x1b[K":
            lines[-1] += part
    return lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three four", ["one two", "three four"]),
        ("exactly 11c and on", ["exactly 11c", "and on"]),
        ("a verylongwordthatfits nowhere", ["a ", "verylongwor", "dthatfits", "nowhere"]),
        ("你好世界啊水手今天", ["你好世界啊", "水手今天"]),
        ("ab 你好世界 cdefgh", ["ab 你好世界", "cdefgh"]),
        ("first\nsecond line of it", ["first", "second line", "of it"]),
        ("```\nsome code that is long\n```\nand prose of it",
         ["```", "some code that is long", "```", "and prose", "of it"]),
        ("~~~\n```\nsome code that is long\n~~~\nand some prose",
         ["~~~", "```", "some code that is long", "~~~", "and some", "prose"]),
    ],
)  # fmt: skip
def test_lines(text: str, lines: list[str]) -> None:
    for size in (1, 3, len(text)):
        wrap = WordWrap()
        sent = "".join(wrap.wrapped(text[start : start + size], WIDTH) for start in range(0, len(text), size))
        assert [line.rstrip(" ") for line in screen(sent)] == [line.rstrip(" ") for line in lines]


def test_no_line_reaches_the_last_column_and_nothing_is_lost() -> None:
    text = "Ahoy, sailor! 你好 Where shall we sail\ttoday? 🙂 " * 20
    for width in range(3, 40):
        sent = WordWrap().wrapped(text, width)
        lines = screen(sent)
        assert max(map(cell_len, (line.replace("\t", "") for line in lines))) < width
        assert "".join("".join(lines).split()) == "".join(text.split())


def test_the_next_answer_begins_anew() -> None:
    wrap = WordWrap()
    assert wrap.wrapped("```\ncode", WIDTH) == "```\ncode"
    assert wrap.wrapped("\n```\n", WIDTH) == "\n```\n"
    assert wrap.wrapped("one two three", WIDTH) == "one two thr\x1b[3D\x1b[K\nthree"
