"""Runs of the command, each in a session of its own: forked from this process, which has done the imports, or fresh."""

from __future__ import annotations

import fcntl
import importlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.support.campaign.group import Group
from tests.support.campaign.layer import Fault, State, rearm, variables
from tests.support.campaign.workplace import Workplace

PATIENCE = 60.0
"""Seconds after which a run is hung, and after its end, processes that it started."""
_LOOK = 0.02
_PIPE_BYTES = 1 << 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REPOSITORY = Path(__file__).parents[3]
# What a forked copy cannot use, or must load itself: libllama is never loaded beside the rest.
_NOT_BEFORE = ("torch", "llama_cpp", "transformers", "peft")


@dataclass(frozen=True)
class Ended:
    """How a run came to its end.

    Attributes:
        code: its exit code; negative for a signal.
        hung: it, or a process that it had started, was still there after :data:`PATIENCE`.
        stdout, stderr: what it printed.
        seconds: how long it took.
    """

    code: int
    hung: bool
    stdout: str
    stderr: str
    seconds: float


class Running:
    """A run that has been started; what it prints is in two pipes, which no fault reaches."""

    def __init__(self, pid: int, stdout: int, stderr: int) -> None:
        self.pid, self._pipes = pid, (stdout, stderr)
        self._began = time.monotonic()
        self._watch = os.pidfd_open(pid)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within this time."""
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def send(self, number: int, *, session: bool = False) -> None:
        """Send a signal to it, or to every process of its session."""
        for pid in processes(self.pid) if session else [self.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self, *, alone: bool = False, patience: float = PATIENCE) -> Ended:
        """Wait for the end of it and, unless *alone*, of all that it started; each for *patience* seconds."""
        hung = not self.wait(patience)
        if hung:
            self.send(signal.SIGKILL, session=True)
        _, status = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self._began
        os.close(self._watch)
        deadline = time.monotonic() + patience
        while not alone and (left := [pid for pid in processes(self.pid) if pid != self.pid]):
            if time.monotonic() > deadline:
                hung = True
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK)
        said = [_read_pipe(fd) for fd in self._pipes]
        return Ended(os.waitstatus_to_exitcode(status), hung, *said, seconds)


class Runner:
    """Starts runs of the command in a workplace.

    Attributes:
        state: where the fault layer counts.
        log: where it records.
    """

    def __init__(self, place: Workplace, library: Path) -> None:
        self.place, self.state, self.log = place, State(place.root / "state"), place.root / "calls"
        self._library = library

    def learn(self, arguments: Sequence[str]) -> Ended:
        """Run a command once, undisturbed, and import here what it has imported: the next runs have it then."""
        told, (words, read) = self.place.said / "modules", self._words(arguments)

        def work() -> None:
            from quantkit.cli.main import main

            code = 0
            try:
                main(words)
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 0
            told.write_text("\n".join(sys.modules), encoding="utf-8")
            sys.stdout.flush()
            os._exit(code)

        ended = self._begin(work, self.place.environment(), {}, read).end()
        for module in told.read_text(encoding="utf-8").split():
            if module.partition(".")[0] not in _NOT_BEFORE and module != "__main__":
                with suppress(Exception):  # made by its package, or of another system
                    importlib.import_module(module)
        return ended

    def start(
        self,
        arguments: Sequence[str],
        *,
        fault: Fault | None = None,
        fresh: bool = False,
        limits: Mapping[int, int] | None = None,
        group: Group | None = None,
    ) -> Running:
        """Start ``quantkit`` with these arguments.

        Args:
            arguments: its command line; ``{inputs}`` and ``{out}`` stand for the workplace's paths, and ``<``, as in a
                shell, for what it reads.
            fault: what the layer does; None for nothing.
            fresh: in a new interpreter, not in a copy of this one.
            limits: a number of bytes by resource, such as ``resource.RLIMIT_AS``.
            group: a control group that it and all its processes are in.
        """
        self.state.clear()
        words, read = self._words(arguments)
        extra = self.place.environment()
        if fault is not None:
            roots = (self.place.outputs, self.place.temporary, self.place.cache)
            log = self.log if fault.mode == "record" else None
            extra = {**extra, **variables(fault, self.state.path, roots, log)}
        work = (lambda: _command_fresh(words)) if fresh else _command_here(words, self._library)
        return self._begin(work if group is None else lambda: group.run(work), extra, limits or {}, read)

    def _words(self, arguments: Sequence[str]) -> tuple[list[str], str]:
        """The words of a command line, and the file that it reads."""
        words = [self.place.fill(word) for word in arguments]
        if "<" not in words:
            return words, os.devnull
        at = words.index("<")
        return [*words[:at], *words[at + 2 :]], words[at + 1]

    def _begin(
        self, work: Callable[[], None], extra: Mapping[str, str], limits: Mapping[int, int], read: str
    ) -> Running:
        sys.stdout.flush()
        sys.stderr.flush()
        pipes = [os.pipe(), os.pipe()]
        for _, into in pipes:
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # nobody reads before the end
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none comes before it can be handled
        pid = os.fork()
        if pid == 0:
            files = [os.open(read, os.O_RDONLY), *(into for _, into in pipes)]
            _be_a_run(work, self.place.root, extra, files, limits)
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)
        for _, into in pipes:
            os.close(into)
        return Running(pid, pipes[0][0], pipes[1][0])


def _be_a_run(
    work: Callable[[], None], folder: Path, extra: Mapping[str, str], files: Sequence[int], limits: Mapping[int, int]
) -> NoReturn:
    try:
        os.setsid()
        os.chdir(folder)
        for number, opened in enumerate(files):
            os.dup2(opened, number)
        # The others know the original's places in its files.
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode, closefd=False) for fd, mode in enumerate("rww"))
        os.environ.update(extra, FAULT_TARGET=str(os.getpid()))
        for which in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(which, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        except KeyboardInterrupt:  # before there was a command
            os._exit(128 + signal.SIGINT)
        for kind, most in limits.items():
            resource.setrlimit(kind, (most, most))
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(99)


def _read_pipe(fd: int) -> str:
    with os.fdopen(fd, "rb") as file:
        return file.read().decode(errors="replace")


def _command_here(words: Sequence[str], library: Path) -> Callable[[], None]:
    def work() -> None:
        import tempfile

        from quantkit.cli.main import entry

        tempfile.tempdir = None
        sys.argv = ["quantkit", *words]
        rearm(library)
        entry()

    return work


def _command_fresh(words: Sequence[str]) -> None:
    os.environ["PYTHONPATH"] = str(_REPOSITORY)
    os.execv(sys.executable, [sys.executable, "-m", "quantkit", *words])


def processes(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                after = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
                state, _, _, session = after.split()[:4]
                if int(session) == leader and state not in "ZX":
                    found.append(int(entry))
    return found
