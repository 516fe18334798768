"""Asks a separate process that keeps running, with limits on the time and memory of each question.

The process starts on first use, and again if it had to end. One is enough, and a process per question would cost 0.1 s.
If somebody kills it, such as a system that is short of memory, the question is asked once more.
The module in it calls :func:`quantkit.system.limited_worker.answer_lines`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.system.child_process import ended_how, start_module


class KilledError(QuantkitError):
    """Somebody else killed the process, twice."""

    default_hint = "is the memory short? The system's log says what it killed; then try again"


@dataclass(frozen=True)
class Limits:
    """Limits for one question.

    Attributes:
        seconds: processor time in seconds, if the system can limit it (not on Windows).
        wall: wall-clock time in seconds, after which the process is killed.
        memory: address space in bytes, if the system can limit it (not on Windows and macOS).
    """

    seconds: float = 3.0
    wall: float = 30.0
    memory: int = 512 << 20


class LimitedProcess:
    """Asks a separate process. Safe from any thread: questions wait for each other.

    Attributes:
        limits: the limits for each question.
    """

    def __init__(self, module: str, *, subject: str, error: type[QuantkitError], limits: Limits) -> None:
        """Ask *module*; where a limit is reached, an *error* says so of *subject*, such as "the chat template"."""
        self.limits = limits
        self._module, self._subject, self._error = module, subject, error
        self._lock = threading.Lock()
        self._closing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._original: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, so that it has done its imports when it is asked."""
        with suppress(OSError), self._lock:  # ask() tries again
            self._running()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            QuantkitError: of the kind given to the constructor: it was stopped at a limit, or crashed its process.
            KilledError: it was killed from outside, and so was the process that was asked again.
        """
        line = json.dumps(question).encode() + b"\n"
        with self._lock:
            try:
                reply = self._answer(line)
            except KilledError:
                if self._closing:
                    raise
                reply = self._answer(line)
            if "limit" in reply:  # start a new process with all of its memory
                self._end()
        if reply.get("limit") == "memory":
            raise self._error(f"{self._subject} needs more memory than {self.limits.memory >> 20} MiB")
        return reply

    def close(self) -> None:
        """End the process, also in the middle of a question; the next one starts it again."""
        self._closing = True
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._end()
            self._closing = False

    def forget(self) -> None:
        """In a forked copy of this program: leave the process to the original, and never use it."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._process.returncode = 0  # so that Python does not warn that it is still running
            self._original, self._process = self._process, None  # to free it would close its pipes, with a warning

    def _answer(self, line: bytes) -> dict[str, Any]:
        process = self._running()
        try:
            return self._exchange(process, line)
        except BaseException:  # after Ctrl-C the next question must not get this one's answer
            self._end()
            raise

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it was killed in the meantime
        if self._process is None:
            self._process = start_module(self._module, (repr(self.limits.seconds), str(self.limits.memory)))
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = _Alarm(self.limits.wall, stop)
        timer.start()
        try:
            with suppress(OSError):  # it has ended, so there is no answer
                process.stdin.write(line)
                process.stdin.flush()
            reply = process.stdout.readline()
        finally:
            timer.cancel()
        if not reply.endswith(b"\n"):
            raise self._stopped(process, late.is_set())
        try:
            answer = json.loads(reply)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._error(f"{self._subject} made the process that runs it answer nonsense")
        return answer

    def _stopped(self, process: subprocess.Popen[bytes], late: bool) -> QuantkitError:
        code = process.wait()
        if late:
            return self._error(f"{self._subject} takes longer than {self.limits.wall:g} s")
        if code < 0 and signal.Signals(-code).name == "SIGKILL":
            return KilledError(f"{self._subject}: the process that runs it was killed (SIGKILL)")
        if code < 0 and signal.Signals(-code).name == "SIGPROF":
            return self._error(f"{self._subject} takes more than {self.limits.seconds:g} s of processor time")
        assert process.stderr is not None
        *_, said = process.stderr.read().decode(errors="replace").strip()[-500:].split("\n")
        said = "".join(c for c in said if c.isprintable())
        return self._error(f"{self._subject} crashed the process that runs it: {ended_how(code)} {said}".rstrip())

    def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        with suppress(OSError), process:  # closes the pipes and waits
            pass


class _Alarm:
    """Calls a function after some seconds in which this process could run.

    A stopped process (Ctrl-Z, SIGSTOP, a frozen container) must not find at its return that the one it asks, which was
    stopped too, is late.
    """

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._slices, self._slice = 20, seconds / 20
        self._call, self._cancelled = call, threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="alarm", daemon=True).start()

    def cancel(self) -> None:
        self._cancelled.set()

    def _run(self) -> None:
        # However long a stop lasts, it ends one wait.
        for _ in range(self._slices):
            if self._cancelled.wait(self._slice):
                return
        self._call()
