"""What people see of long work: nothing of what is short in a pipe, and a few lines of what is not."""

from __future__ import annotations

import pytest

from quantkit.system import progress
from quantkit.system.progress import TerminalReporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_short_work_says_nothing_in_a_pipe(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalReporter(bar=False).phase("writing", 2000) as advance:
        clock[0] = 9.9
        advance(2000)
    assert capsys.readouterr() == ("", "")


def test_long_work_says_how_far_it_is(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalReporter(bar=False).phase("writ\ning", 8000, "bytes") as advance:
        for seconds in (5, 11, 12, 40.9, 41, 42):
            clock[0] = seconds
            advance(1000)
        clock[0] = 60
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "writ ing: 2.00 k of 8.00 k bytes after 11 s",
        "writ ing: 5.00 k of 8.00 k bytes after 41 s",
        "writ ing: 8.00 k bytes in 60 s",
    ]


def test_what_fails_is_not_said_to_be_done(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with TerminalReporter(bar=False).phase("writing", 8000):
            clock[0] = 60
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capsys.readouterr().err == ""


def test_a_note_is_broken_between_words_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = "a/long-path/that-stays.gguf is\nnot what it was"
    for bar in (True, False):
        TerminalReporter(bar=bar).note(text)
    out, err = capsys.readouterr()
    assert out == ""
    whole = "note: a/long-path/that-stays.gguf is not what it was"
    assert err.splitlines() == ["note:", "  a/long-path/that-stays.gguf", "  is not what it was", whole]
