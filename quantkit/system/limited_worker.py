"""In a process that is asked: limits itself, then answers each line of JSON with a line of JSON.

It ends when its stdin is closed. It ignores Ctrl-C, which the parent process handles.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def answer_lines(answer: Callable[[dict[str, Any]], dict[str, Any]], seconds: float, memory: int) -> None:
    """Answer questions until stdin ends.

    Args:
        answer: answers a question; the key ``limit`` names a limit that was reached.
        seconds: processor time for each question.
        memory: address space in bytes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory(memory)
    for line in sys.stdin.buffer:
        _limit_time(seconds)
        try:
            text = json.dumps(answer(json.loads(line)))
        except MemoryError:  # while reading the question or writing the answer
            text = json.dumps({"limit": "memory"})
        _limit_time(0)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _limit_time(seconds: float) -> None:
    """Limit processor time from now on; 0 for no limit. The signal is not caught: it ends long multiplications too."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(memory: int) -> None:
    """Limit memory. Windows has no such limit and macOS ignores it; there only the time limit helps."""
    if sys.platform != "win32":
        import resource

        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
