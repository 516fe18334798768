"""The picture of a terminal in the README is what its recording shows, and recordings are followed as terminals do."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len

from quantkit.demo.data import EXAMPLES
from tests.support.cast import Cast, draw, followed, screen_lines

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SVG = "{http://www.w3.org/2000/svg}"


def shown(cast: Cast) -> list[str]:
    return [line.plain for line in screen_lines(followed(cast))]


def test_the_picture_is_of_its_recording() -> None:
    cast = Cast.from_text((PICTURES / "terminal.cast").read_text(encoding="utf-8"))
    assert Cast.from_text(cast.to_text()).events == cast.events
    picture = (PICTURES / "terminal.svg").read_text(encoding="utf-8")
    assert picture == draw(cast, "quantkit"), "scripts/record_terminal --render draws it again"
    lines = shown(cast)
    assert any(line.startswith("verified: ") for line in lines)
    answers = {example.question: example.adapted_answer for example in EXAMPLES}
    asked = [number for number, line in enumerate(lines) if line.removeprefix(">>> ") in answers]
    assert len(asked) == 3
    assert all(lines[number + 1] == answers[lines[number].removeprefix(">>> ")] for number in asked)
    assert "url(http" not in picture  # self-contained


def test_what_is_drawn() -> None:
    cast = Cast(20, 4, [(0.0, "one two\x1b[3D\x1b[K\r\n\x1b[2mdim <"), (0.1, "&>\x1b[0m 你好 \x1b[31mred\x1b[0m\r\n")])
    assert shown(cast) == ["one", "dim <&> 你好 red"]
    drawn = draw(cast, "title")
    width = 12.2  # of a column
    texts = [text for text in ElementTree.fromstring(drawn).iter(f"{SVG}text") if "textLength" in text.attrib]
    by_text = {(text.text or "").strip("\xa0\n"): text.attrib for text in texts}
    assert [text.replace("\xa0", " ") for text in by_text if text] == ["one", "dim <&>", "你好", "red"]
    for text in texts:
        length = float(text.attrib["textLength"])
        assert length == pytest.approx(width * cell_len(text.text or "")), text.text
    assert float(by_text["你好"]["x"]) == pytest.approx(width * 8)
    assert float(by_text["red"]["x"]) == pytest.approx(width * 13)
    assert len({by_text[text]["class"] for text in ("one", "dim\xa0<&>", "red")}) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals on Windows")
def test_a_program_is_recorded() -> None:
    from tests.support.terminal import Terminal

    cast = Cast(30, 5)
    code = "print('你好', end='', flush=True); input(); print('bye')"
    with Terminal([sys.executable, "-c", code], environment={}, columns=30, lines=5, heard=cast.add) as terminal:
        assert terminal.comes("你好")
        terminal.type("\r")
        assert terminal.comes("bye")
    assert shown(cast) == ["你好", "bye"]
    assert [seconds for seconds, _ in cast.events] == sorted(seconds for seconds, _ in cast.events)
