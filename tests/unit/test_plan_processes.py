"""The processes that a plan asks are started before their questions are known, and none is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import quantkit
from quantkit.chat_template.process import shared_process
from quantkit.errors import QuantkitError
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from quantkit.plan.mixture import DRY_RUN
from quantkit.system import child_process
from quantkit.system.beside import beside
from quantkit.system.child_process import ask_module, begun
from tests.support.patience import PATIENCE

Maker = Callable[..., Path]
CODE = """
import os
from quantkit.system.child_process import answer_module
answer_module(lambda question: [os.getpid(), question])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that answers with its process's number and the question."""
    (tmp_path / "answers.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "answers"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The children, as they are started."""
    children = []
    start = child_process.start_module

    def keep(*args: object) -> subprocess.Popen[bytes]:
        children.append(start(*args))  # type: ignore[arg-type]
        return children[-1]

    monkeypatch.setattr(child_process, "start_module", keep)
    return children


def test_who_was_begun_answers_once(module: str, started: list[subprocess.Popen[bytes]]) -> None:
    with begun(module):
        assert ask_module(module, {"a": 1}) == [started[0].pid, {"a": 1}]
        assert ask_module(module, {"b": 2}) == [started[1].pid, {"b": 2}]
    assert [child.returncode for child in started] == [0, 0]


def test_a_block_in_a_block_begins_nothing(module: str, started: list[subprocess.Popen[bytes]]) -> None:
    with begun(module), begun(module):
        pid, _ = ask_module(module, {"a": 1})
    assert [child.pid for child in started] == [pid]


def test_who_was_not_asked_is_ended(module: str, started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(KeyboardInterrupt), begun(module):
        raise KeyboardInterrupt
    assert len(started) == 1
    assert started[0].returncode not in (None, 0)
    assert started[0].stdin is not None
    assert started[0].stdin.closed


def test_who_cannot_be_begun_is_started_when_it_is_asked(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise BlockingIOError

    with monkeypatch.context() as patched:
        patched.setattr(child_process, "start_module", fail)
        block = begun(module)
        block.__enter__()
    assert ask_module(module, {"a": 1})[1] == {"a": 1}
    block.__exit__(None, None, None)


def test_who_began_it_may_die(module: str) -> None:
    code = f"import os\nfrom quantkit.system.child_process import begun\nwith begun({module!r}): os._exit(0)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,  # it would not end before its child, which holds its stderr
    )
    assert done.stderr == ""


@pytest.mark.parametrize(("quants", "modules"), [(["q4_0", "q8_0"], [DRY_RUN]), (["f16"], [])])
def test_a_plan_starts_what_it_asks(
    checkpoint: Maker, monkeypatch: pytest.MonkeyPatch, quants: list[str], modules: list[str]
) -> None:
    asked = []
    start = child_process.start_module

    def keep(module: str, *args: object) -> subprocess.Popen[bytes]:
        asked.append(module)
        return start(module, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(child_process, "start_module", keep)
    quantkit.plan(checkpoint("llama3-untied", layers=1), quants=quants, template="llama-3")
    assert asked == modules
    assert shared_process()._process is not None
    assert child_process._begun == {}


def test_a_refused_plan_leaves_no_process(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(QuantkitError), prepare(Recipe(tmp_path / "missing")):
        pass
    assert [child.returncode is None for child in started] == [False]


def test_work_beside_is_done_at_the_end() -> None:
    go = threading.Event()
    with beside(lambda: go.wait(PATIENCE)) as future:
        assert not future.done()
        go.set()
    assert future.result() is True


def test_the_error_of_work_beside_comes_first() -> None:
    def fail() -> None:
        raise ValueError("beside")

    with pytest.raises(ValueError, match="beside"), beside(fail):
        raise ValueError("block")
    with pytest.raises(ValueError, match="beside"), beside(fail):
        pass
    with pytest.raises(ValueError, match="block"), beside(lambda: None):
        raise ValueError("block")


def test_a_missing_device_is_told_before_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match="cuda:99"):
        quantkit.plan(tmp_path / "missing", device="cuda:99")


def test_nothing_is_downloaded_for_a_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.jobs.prepare.fetch", lambda *args: pytest.fail("it is downloaded"))
    with pytest.raises(QuantkitError, match="cuda:99"):
        quantkit.plan("org/name", device="cuda:99")
