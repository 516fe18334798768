"""``/copy``: what goes to the clipboard, through which programs and which terminals."""

from __future__ import annotations

import base64
import io
import os
import stat
import sys
from pathlib import Path

import pytest

from quantkit.errors import QuantkitError
from quantkit.run.copy_command import copy_answer, last_code
from quantkit.run.screen import Screen
from quantkit.run.transcript import Conversation
from quantkit.system.clipboard import LONGEST_SEQUENCE, PROGRAMS, copy_with_program, osc52
from tests.support.patience import PATIENCE

TEXT = "Ahoy, 世界 🙂:\n\n```python\nprint(1)\n```\n- a list\n\n  ~~~\n  x = 2\n\n  y\n  ~~~\n\nThe end."
# Each variable of the programs, as a desktop sets it.
EVERYWHERE = {program.variable: "1" for program in PROGRAMS if program.variable}
WINDOWS = sys.platform == "win32"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the only one in which programs are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("quantkit.system.clipboard._SECONDS", PATIENCE)
    for name in ("SSH_CONNECTION", *EVERYWHERE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write_program(folder: Path, name: str, *, code: int = 0) -> None:
    path = folder / name
    path.write_text(f'#!/bin/sh\n/bin/cat > "{folder}/copied-by-{name}"; exit {code}\n', encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def copied(folder: Path) -> dict[str, bytes]:
    return {path.name.removeprefix("copied-by-"): path.read_bytes() for path in folder.glob("copied-by-*")}


@pytest.mark.skipif(WINDOWS, reason="programs there are no scripts")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.command[0])
def test_each_program(program: object, programs: Path) -> None:
    name, encoding = program.command[0], program.encoding  # type: ignore[attr-defined]
    write_program(programs, name)
    assert copy_with_program(TEXT, EVERYWHERE) == name
    assert {key: value.decode(encoding) for key, value in copied(programs).items()} == {name: TEXT}
    variable, remote = program.variable, program.remote  # type: ignore[attr-defined]
    # Without its desktop it cannot work, and through SSH it may be the other machine's clipboard.
    assert copy_with_program(TEXT, {**EVERYWHERE, variable: ""}) == (None if variable else name)
    assert copy_with_program(TEXT, {**EVERYWHERE, "SSH_CONNECTION": "1"}) == (name if remote else None)


@pytest.mark.skipif(WINDOWS, reason="programs there are no scripts")
def test_a_program_that_fails_is_passed_over(programs: Path) -> None:
    write_program(programs, "wl-copy", code=1)
    (programs / "xclip").write_bytes(b"\x7fELF")  # of another machine
    (programs / "xclip").chmod(0o755)
    assert copy_with_program("a", EVERYWHERE) is None
    write_program(programs, "xsel")
    assert copy_with_program("a", EVERYWHERE) == "xsel"


def test_osc52() -> None:
    head, _, data = osc52(TEXT).rpartition(";")
    assert head == "\x1b]52;c"
    assert data.endswith("\a")
    assert base64.b64decode(data[:-1]).decode() == TEXT
    assert osc52("x" * LONGEST_SEQUENCE)
    assert osc52("x" * (LONGEST_SEQUENCE + 1)) == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (TEXT, "x = 2\n\ny\n"),
        ("```\nnot closed\n", "not closed\n"),
        ("````md\n```\ninside\n```\n````", "```\ninside\n```\n"),
        ("a\n\n    indented\n", "indented\n"),
        ("`inline` only", ""),
        ("[a](b) " * 20_000, ""),
    ],
)
def test_the_last_block_of_code(text: str, code: str) -> None:
    assert last_code(text) == code


def test_what_is_copied_and_said(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    conversation = Conversation()
    conversation.add("one", TEXT)
    terminal, pipe = Tty(), io.StringIO()
    for out, err in ((io.StringIO(), terminal), (terminal, io.StringIO())):
        assert copy_answer(conversation, "code", Screen(out, err)).startswith("(sent the last block of code (3 lines)")
        assert terminal.getvalue() == osc52("x = 2\n\ny\n")
        terminal.truncate(0)
        terminal.seek(0)
    nowhere = Screen(pipe, pipe)
    with pytest.raises(QuantkitError, match="not copied: there is no clipboard program"):
        copy_answer(conversation, "", nowhere)
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(QuantkitError, match="no clipboard program"):
        copy_answer(conversation, "", Screen(pipe, terminal))
    assert (pipe.getvalue(), terminal.getvalue()) == ("", "")
    monkeypatch.setenv("TERM", "xterm")
    if not WINDOWS:
        write_program(programs, "pbcopy")
        said = copy_answer(conversation, "", Screen(pipe, terminal))
        assert said == "(copied the answer (14 lines) with pbcopy, and through the terminal (OSC 52))"
        assert (copied(programs)["pbcopy"].decode(), terminal.getvalue()) == (TEXT, osc52(TEXT))
        assert copy_answer(conversation, "", nowhere) == "(copied the answer (14 lines) with pbcopy)"
        os.remove(programs / "pbcopy")
    conversation.add("two", "x" * (LONGEST_SEQUENCE + 1))
    with pytest.raises(QuantkitError, match=f"at most {LONGEST_SEQUENCE} bytes"):
        copy_answer(conversation, "", Screen(pipe, terminal))
    for what, message in (("code", "has no block of code"), ("all", "not 'all'")):
        with pytest.raises(QuantkitError, match=message):
            copy_answer(conversation, what, nowhere)
    with pytest.raises(QuantkitError, match="there is no answer yet"):
        copy_answer(Conversation(), "", nowhere)
