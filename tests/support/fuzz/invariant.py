"""What holds of every reader: it returns or refuses by name, soon, in little memory, within its folder."""

from __future__ import annotations

import resource
import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from quantkit.errors import QuantkitError
from tests.support.fuzz.guard import guarded
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import clear

_PAGE = resource.getpagesize()


class TooSlowError(BaseException):
    """A reader that does not come to an end; no Exception, which a reader could take for its own."""


class UnhelpfulError(Exception):
    """A refusal without a message or a hint."""


def hold(reader: Reader, data: bytes) -> QuantkitError | None:
    """Read an input.

    Returns:
        The error by which it was refused, if it was.

    Raises:
        TooSlowError: it took longer than the reader's seconds of the processor.
        ForbiddenError: the reader wrote outside of its folder, started a process or connected to something.
        UnhelpfulError: it refused the input without a message or a hint.
        BaseException: whatever else it raised, such as a MemoryError: it wanted more than the reader's memory.
    """
    clear()
    try:
        with guarded(reader.allows), _bounded(reader.seconds, reader.memory), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numpy's, of values that no number has
            reader.read(data)
    except QuantkitError as error:
        refused = error
    else:
        return None
    if not str(refused).strip() or not refused.hint.strip():
        raise UnhelpfulError(f"{type(refused).__name__}: {refused} (hint: {refused.hint})")
    return refused


@contextmanager
def _bounded(seconds: float, memory: int) -> Iterator[None]:
    """Limit the time of the processor and the address space; for the main thread of a process."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"more than {seconds:g} seconds")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGPROF, end)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + memory, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, previous)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE


def fault(error: BaseException) -> str:
    """By what the same fault is known again: the kind of error, and the line of quantkit where it came up."""
    frames = traceback.extract_tb(_innermost(error).__traceback__)
    own = [frame for frame in frames if "/quantkit/" in frame.filename] or frames[-1:]
    where = f"{own[-1].filename.rpartition('/quantkit/')[2]}:{own[-1].lineno}" if own else "nowhere"
    kind = "ValueError" if isinstance(error, ValueError) else type(error).__name__  # of json, of Unicode, ...
    return f"{kind} at {where}"


def _innermost(error: BaseException) -> BaseException:
    """An error of the guard has the frames of what it refused in its context."""
    context: BaseException | None = error.__context__
    same = context is not None and type(context) is type(error)
    return context if same and context is not None else error


def shown(error: BaseException) -> str:
    """The whole traceback."""
    trace: TracebackType | None = error.__traceback__
    return "".join(traceback.format_exception(type(error), error, trace))
