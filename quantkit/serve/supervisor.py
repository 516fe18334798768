"""Starts the server in a process of its own, and again when that process is killed or crashes.

llama.cpp ends its process at a failed assertion or an error of a card, and a system that is short of memory ends the
largest one. The supervisor is small and holds the listening socket, so the port stays, and who connects meanwhile waits
for the next server. It imports neither numpy nor llama.cpp nor the server's libraries.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from quantkit.errors import QuantkitError
from quantkit.serve.last_words import Found, LastWords, last_words
from quantkit.system.child_process import end_with_stdin, ended_how, start_successor
from quantkit.system.shell import command
from quantkit.system.temporary import temporary_root

WAITS = (0.0, 1.0, 4.0)
"""Seconds before each start of those that follow one another without a steady minute; there are no more than these."""

_STEADY = 60.0  # seconds from being ready after which a server counts as one that works
_PASSED_ON = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_VARIABLE = "QUANTKIT_SUPERVISED"


def can_supervise() -> bool:
    """Whether a process of this system can hand its listening socket to another one."""
    return os.name == "posix"


# -- in the server ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Supervised:
    """What the supervisor gives to the server.

    Attributes:
        listening: the socket.
        words: where it writes what it does.
        restarts: how many servers there were before it.
    """

    listening: socket.socket
    words: LastWords
    restarts: int


def supervised() -> Supervised | None:
    """What the supervisor gave to this process, which ends with it from now on; None if nobody supervises it."""
    given = re.fullmatch(r"(\d+) (\d+) (\d+)", os.environ.pop(_VARIABLE, ""))
    if given is None:
        return None
    end_with_stdin()
    listening, file, restarts = map(int, given.groups())
    for descriptor in (listening, file):
        os.set_inheritable(descriptor, False)
    return Supervised(socket.socket(fileno=listening), LastWords(file), restarts)


# -- in the supervisor ------------------------------------------------------------------------------------------------


def supervise(arguments: Sequence[str], listening: socket.socket, path: Path, note: Callable[[str], None]) -> int:
    """Run ``quantkit serve`` with *arguments* on a socket until it ends by itself; returns its exit code.

    If a signal that nobody sent through this process ends it, it is started again, unless it was the first and never
    ready. SIGINT, SIGTERM and SIGHUP are passed on.

    Args:
        arguments: those of the command.
        listening: the socket.
        path: the model, for hints.
        note: writes a line to the log.

    Raises:
        QuantkitError: it died before it was ever ready, too often, or while it ended; or it cannot be started.
        KeyboardInterrupt: it was told to end, and had not learned yet how to do so.
    """
    row = restarts = 0
    with _unnamed_file() as file:
        while True:
            LastWords(file.fileno())  # so that nothing of the server before counts as this one's
            code, told_to_end = _run(arguments, listening, file.fileno(), restarts)
            if code >= 0:
                return code
            if told_to_end and -code in _PASSED_ON:
                raise KeyboardInterrupt
            found, how = last_words(file.fileno()), _how(code)
            steady = found.ready is not None and time.monotonic() - found.ready >= _STEADY
            row = 1 if steady else row + 1
            if when := _over(found, restarts, row, told_to_end):
                raise QuantkitError(f"the server was ended by {how}{_during(found)}{when}", hint=_hint(code, path))
            restarts += 1
            wait = WAITS[row - 1]
            note(
                f"warning: the server was ended by {how}{_during(found)}; it starts again"
                + f" in {wait:g} s" * bool(wait)
            )
            time.sleep(wait)


def _unnamed_file() -> IO[bytes]:
    """In memory where the system can do that: a container may have no folder that can be written."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("quantkit"), "w+b")
    return tempfile.TemporaryFile(dir=temporary_root())


def _over(found: Found, restarts: int, row: int, told_to_end: bool) -> str:
    """When it was ended, if that is a reason not to start it again."""
    if told_to_end:
        return " while it was ending"
    if found.ready is None and not restarts:
        return " before it was ready"
    if row > len(WAITS):
        return f", after {len(WAITS)} new starts without a minute between"
    return ""


def _how(code: int) -> str:
    return ended_how(code) + (" (its memory ran out, most likely)" if -code == signal.SIGKILL else "")


def _during(found: Found) -> str:
    if not found.answering:
        return ""
    return f" during {', '.join(found.answering)}" + f" and {found.more} more" * bool(found.more)


def _hint(code: int, path: Path) -> str:
    if -code == signal.SIGKILL:
        return "let it need less: a shorter context (--param num_ctx=4096), --parallel 1, or a file of a smaller type"
    return f"see whether the model runs at all: {command('quantkit', 'smoke', path)}; or --n-gpu-layers 0"


def _run(arguments: Sequence[str], listening: socket.socket, file: int, restarts: int) -> tuple[int, bool]:
    """Run one server to its end; returns its code, negative for a signal, and whether it had been told to end."""
    given = (listening.fileno(), file)
    try:
        server = start_successor(
            "quantkit",
            ("serve", *arguments),
            inherits=given,
            variables={_VARIABLE: f"{given[0]} {given[1]} {restarts}"},
        )
    except OSError as error:
        raise QuantkitError(
            f"the server's process cannot be started: {error.strerror}", hint="close other programs, and try again"
        ) from None
    with server:
        try:
            with _passing_on(server) as told:
                code = server.wait()
        except BaseException:
            server.kill()
            raise
    return code, bool(told)


@contextmanager
def _passing_on(server: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """In the block, signals that end or stop this process do so to the server; the list has those that end."""
    told: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        told.append(number)
        server.send_signal(number)

    def stop(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # until SIGCONT
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGCONT)

    handlers = {number: end for number in _PASSED_ON if number != signal.SIGHUP or _is_heard(number)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    if _is_heard(signal.SIGTSTP):
        before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, stop)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_heard(number: int) -> bool:
    """Whether a signal is not ignored, as nohup and shells without job control make it."""
    return signal.getsignal(number) != signal.SIG_IGN
