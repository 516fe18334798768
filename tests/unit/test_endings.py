"""How a command ends that is interrupted, whose parent is gone, or that has no memory."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from quantkit.cli import main as command_line
from quantkit.files import fileio
from quantkit.system.interrupts import ENDING, ends_cleanly
from quantkit.system.limited_process import _Alarm
from quantkit.system.out_of_memory import is_out_of_memory
from tests.support.patience import PATIENCE


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_as_ctrl_c_does(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt), ends_cleanly():
        signal.raise_signal(number)
    assert signal.getsignal(number) == signal.SIG_DFL


def test_nohup_is_heeded() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ends_cleanly():
        signal.raise_signal(signal.SIGHUP)


class _Finalized:
    def __del__(self) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_in_a_finalizer_or_callback_is_not_lost() -> None:
    """Python prints it and goes on; so does ctypes, for a callback from llvmlite."""

    def lose_it() -> None:
        value = _Finalized()
        del value
        time.sleep(PATIENCE)

    with pytest.raises(KeyboardInterrupt), ends_cleanly():
        lose_it()


_CHILD = "import time\nfrom quantkit.system.child_process import end_with_parent\nend_with_parent()\ntime.sleep(600)"
_PARENT = f"""
import subprocess, sys, time
from quantkit.system.child_process import _environment
child = subprocess.Popen([sys.executable, "-c", {_CHILD!r}], env=_environment())
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_ends_after_its_parent_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        watch = os.pidfd_open(child)
        parent.kill()
    ended, _, _ = select.select([watch], [], [], PATIENCE)
    os.close(watch)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended


def test_a_stop_costs_an_alarm_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 s at most 1.5 s pass unseen when the process was stopped for an hour."""
    waits: list[float] = []
    rung = threading.Event()
    alarm = _Alarm(30, rung.set)
    monkeypatch.setattr(alarm._cancelled, "wait", lambda seconds: bool(waits.append(seconds)))
    alarm.start()
    assert rung.wait(PATIENCE)
    assert sum(waits) == pytest.approx(30)
    assert max(waits) <= 1.5


def _of(cause: BaseException) -> RuntimeError:
    error = RuntimeError("wrapped")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),
        (ImportError("libx.so: failed to map segment from shared object"), True),
        (RuntimeError("can't start new thread"), True),
        (_of(MemoryError()), True),
        (_of(ValueError()), False),
        (OSError(errno.EIO, os.strerror(errno.EIO)), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_means_that_memory_is_missing(error: BaseException, is_it: bool) -> None:
    assert is_out_of_memory(error) == is_it


def test_a_command_without_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(command_line.cli, "main", fail)
    assert command_line._run([]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: not enough memory"


def test_a_write_that_takes_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fileio, "_write_some", lambda *arguments: 0)
    with pytest.raises(OSError, match="Input/output error"):
        fileio.write_at(0, memoryview(b"data"), 0)
