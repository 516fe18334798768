"""Runs quantkit modules in separate processes: a question as JSON in, an answer as JSON out.

The child imports from the same places as this process, never from the current folder: that may be a model folder, and
nothing from a model folder is executed.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from quantkit.errors import QuantkitError
from quantkit.system import out_of_memory
from quantkit.system.temporary import temporary_root

# Characters of a child's output that are kept.
_KEPT_OUTPUT = 2000
# Children that wait for their question, by module.
_begun: dict[str, subprocess.Popen[bytes]] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begun.clear)  # they are the original's
# The process that started this one, for :func:`end_with_parent`.
_PARENT = "QUANTKIT_PARENT"
_LOOK = 1.0  # seconds
# A line of faulthandler's for a frame of quantkit's own; the innermost comes first.
_FRAME = re.compile(r'^  File "[^"\n]*[/\\](quantkit[/\\][^"\n]+)", line (\d+) in (\S+)', re.MULTILINE)


class ChildError(Exception):
    """The child crashed or failed.

    Attributes:
        how: ``signal SIGABRT`` or ``exit code 1``.
        output: the end of what it wrote to stderr, without Python's own report of a crash.
        call: the innermost function of quantkit that was running, such as ``_load (quantkit/run/engine.py, line 90)``;
            empty unless faulthandler was on and reported one.
    """

    def __init__(self, how: str, stderr: str) -> None:
        said, crash, report = stderr.partition("Fatal Python error:")
        output = (said.strip() or (crash + report).strip().partition("\n")[0])[-_KEPT_OUTPUT:]
        super().__init__(f"{how}: {output}")
        frame = _FRAME.search(report)
        self.how, self.output = how, output
        self.call = f"{frame[3]} ({Path(frame[1]).as_posix()}, line {frame[2]})" if frame else ""

    @property
    def killed(self) -> bool:
        """Whether the system ended it, as a kernel does when there is no memory left."""
        return self.how == "signal SIGKILL"

    def hint(self, otherwise: str) -> str:
        """What to do: about memory, if it was killed."""
        return f"its memory ran out, most likely: {out_of_memory.HINT}" if self.killed else otherwise


def run_module(module: str, arguments: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m module`` to its end and capture its output."""
    command = _command(module, arguments)
    return subprocess.run(command, input=b"", capture_output=True, check=False, env=_environment())


@contextmanager
def begun(module: str) -> Iterator[None]:
    """Start ``python -m module`` now: the first :func:`ask_module` in the block finds its imports done.

    If nobody asks it, it is ended with the block.
    """
    if module not in _begun:
        with suppress(OSError):  # ask_module tries again
            _begun[module] = start_module(module)
    try:
        yield
    finally:
        unasked = _begun.pop(module, None)
        if unasked is not None:
            unasked.kill()
            with suppress(OSError), unasked:  # closes the pipes and waits
                pass


def ask_module(module: str, question: dict[str, Any]) -> Any:
    """Send *question* to ``python -m module`` and return its answer.

    Raises:
        ChildError: the child crashed or failed.
        QuantkitError: the child refused the question.
    """
    with _begun.pop(module, None) or start_module(module) as child:
        try:
            stdout, stderr = child.communicate(json.dumps(question).encode())
        except BaseException:  # as subprocess.run
            child.kill()
            raise
    if child.returncode != 0:
        raise ChildError(ended_how(child.returncode), stderr.decode(errors="replace"))
    return answer_of(json.loads(stdout))


def follow_module(module: str, question: dict[str, Any], told: Callable[[Any], None], *, patient: bool = True) -> Any:
    """As :func:`ask_module`, for long work: what the child says with :func:`tell` is given to *told* at once.

    At Ctrl-C the child is asked to stop, and may still tell and answer; then KeyboardInterrupt is raised. A second one
    ends it; if not *patient*, the first. A child that can stop handles SIGINT.

    Raises:
        ChildError: the child crashed or failed.
        QuantkitError: the child refused the question.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    interrupted = False
    with tempfile.TemporaryFile(dir=temporary_root()) as errors, start_module(module, stderr=errors) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
        answer: dict[str, Any] = {}
        try:
            with suppress(OSError):  # it has crashed
                child.stdin.write(json.dumps(question).encode())
            with suppress(OSError):
                child.stdin.close()
            while True:
                try:
                    line = lines.get()
                    if not line:
                        break
                    said = json.loads(line)
                    if "told" in said:
                        told(said["told"])
                    else:
                        answer = said
                except KeyboardInterrupt:
                    if interrupted or not patient:
                        raise
                    interrupted = True
                    with suppress(OSError, ValueError):  # it has ended, or (Windows) hears of Ctrl-C itself
                        child.send_signal(signal.SIGINT)
            child.wait()
        except BaseException:
            child.kill()
            raise
        errors.seek(0)
        stderr = errors.read().decode(errors="replace")
    if interrupted:
        raise KeyboardInterrupt
    if child.returncode != 0 or not answer:
        raise ChildError(ended_how(child.returncode), stderr)
    return answer_of(answer)


def _read_lines(stdout: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Put each line into the queue, then an empty one."""
    with suppress(ValueError):  # it was closed, because nobody waits any more
        for line in stdout:
            lines.put(line)
    lines.put(b"")


def tell(value: Any) -> None:
    """In a child: say something before the answer, to a caller of :func:`follow_module`."""
    sys.stdout.write(json.dumps({"told": value}) + "\n")
    sys.stdout.flush()


def answer_of(found: Mapping[str, Any]) -> Any:
    """The answer in what a child said last.

    Raises:
        QuantkitError: the child refused the question.
    """
    if "refused" in found:
        raise QuantkitError(found["refused"], hint=found["hint"])
    return found["answer"]


def answer_module(answer: Callable[[dict[str, Any]], Any]) -> None:
    """The main function of a module that is asked: *answer* each question, a line, or say why it is refused."""
    found: dict[str, Any]
    end_with_parent()
    for line in sys.stdin:  # none, if the program that began this one has ended
        try:
            found = {"answer": answer(json.loads(line))}
        except QuantkitError as error:
            found = {"refused": str(error), "hint": error.hint}
        except OSError as error:  # a full disk, mostly
            where = "" if error.filename is None else f"{error.filename}: "
            found = {
                "refused": f"{where}{error.strerror or error}",
                "hint": "free space on its disk, or set TMPDIR and XDG_CACHE_HOME to folders on another, and try again",
            }
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def end_with_parent() -> None:
    """In a child: end within a second when the process that started it has ended, however that was.

    After kill -9 nobody asks a child to stop: one that computes importances would go on for hours, for nobody.
    """
    started_by = os.environ.get(_PARENT, "")
    if os.name == "posix" and started_by.isdigit():
        threading.Thread(target=_watch, args=(int(started_by),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


def start_module(
    module: str, arguments: Sequence[str] = (), *, stderr: IO[bytes] | None = None, apart: bool = False
) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` with pipes for its stdin and stdout, and for its stderr if no file is given for it.

    *apart*: signals of the terminal do not reach it.
    """
    pipe = subprocess.PIPE
    words = _command(module, arguments)
    return subprocess.Popen(
        words, stdin=pipe, stdout=pipe, stderr=stderr or pipe, env=_environment(), start_new_session=apart
    )


def start_successor(
    module: str, arguments: Sequence[str], *, inherits: Sequence[int], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` with this process's own stdout and stderr, and these of its file descriptors.

    Signals of the terminal do not reach it, nor does a terminal stop it that lets only the foreground print. Its stdin
    is a pipe that ends when this process has ended, for :func:`end_with_stdin`. Not on Windows.
    """
    ignored = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a process inherits what is ignored
    try:
        return subprocess.Popen(
            _command(module, arguments),
            stdin=subprocess.PIPE,
            env={**_environment(), **variables},
            pass_fds=inherits,
            process_group=0,
        )
    finally:
        signal.signal(signal.SIGTTOU, ignored)


def end_with_stdin() -> None:
    """In a successor: end at once when the process that started it has ended, however that was."""
    threading.Thread(target=_watch_stdin, name="parent", daemon=True).start()


def _watch_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def ended_how(code: int) -> str:
    """``signal SIGABRT`` or ``exit code 1``, by a process's return code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"signal {-code}"


def _command(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        _PARENT: str(os.getpid()),
        "GGML_NO_BACKTRACE": "1",  # without this, llama.cpp would start a debugger on a failed assertion
    }
