"""No test fails because the machine is busy: what it waits for has one generous bound, and no examples are too slow."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

from quantkit.run import grammar_check, grammar_walk
from quantkit.serve.page import rendering
from quantkit.system.limited_process import Limits

TESTS = Path(__file__).parents[1]
LEAST = 60.0
"""Seconds that a test waits at least, before it takes something for a hang."""

# Of what only looks for hangs, and has its own figures; the terminal waits before it asks for the exit code.
OTHERS = ("support/campaign/", "support/fuzz/", "support/terminal.py")
_NUMBER = r"(\d+(?:\.\d+)?)"
_WAITS = re.compile(rf"\btimeout={_NUMBER}\b|\.(?:wait|join|result|communicate|acquire)\({_NUMBER}\)")
_CLOCKS = re.compile(r"\b(?:assert|while|if)\b.*\btime\.(?:monotonic|perf_counter|time)\(")


def lines() -> list[tuple[str, str]]:
    """The lines of all tests, with their places."""
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS).as_posix()
        if not name.startswith(OTHERS) and path != Path(__file__):
            text = path.read_text(encoding="utf-8")
            found += [(f"{name}:{number}: {line}", line) for number, line in enumerate(text.splitlines(), 1)]
    return found


def test_nothing_is_waited_for_a_short_time() -> None:
    every = lines()
    assert len(every) > 10_000
    short = [
        place for place, line in every for found in _WAITS.finditer(line) if 0 < float(found[1] or found[2]) < LEAST
    ]
    assert not short, "wait_for and PATIENCE of tests/support/patience.py:\n" + "\n".join(short)


def test_no_test_decides_by_a_clock() -> None:
    looks = [place for place, line in lines() if "/test_" in place and _CLOCKS.search(line)]
    assert not looks, "tests never measure time:\n" + "\n".join(looks)


@pytest.mark.parametrize(
    ("clock", "processor"),
    [
        (Limits().wall, Limits().seconds),
        (rendering.LIMITS.wall, rendering.LIMITS.seconds),
        (grammar_check._SECONDS, grammar_walk._SECONDS),
    ],
    ids=["templates", "Markdown", "grammars"],
)
def test_what_is_asked_of_a_process_may_wait_for_a_processor(clock: float, processor: float) -> None:
    """Its own time is limited, and the clock only ends what waits for something."""
    assert clock >= 10 * processor or sys.platform == "win32"


def test_examples_have_no_deadline_and_are_the_same_in_each_run(request: pytest.FixtureRequest) -> None:
    assert hypothesis.settings.default.deadline is None
    assert hypothesis.HealthCheck.too_slow in hypothesis.settings.default.suppress_health_check
    assert hypothesis.settings.default.derandomize is not request.config.getoption("whole")


def test_ctrl_c_is_heard_in_the_background_too() -> None:
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
