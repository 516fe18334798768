"""A bound on how long an answer takes to begin.

The HTTP library bounds each wait for bytes, not their sum, and shows nothing of an answer before its headers have
ended: a server that sends one of their bytes now and then would hold a download for days.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class LateError(Exception):
    """It took longer than it may."""


class _Call(Generic[_T]):
    """A call in a thread. Whoever comes second, its value or the end of the wait, puts the value away."""

    def __init__(self, call: Callable[[], _T], drop: Callable[[_T], object]) -> None:
        self._call, self._drop = call, drop
        self._lock, self.ended = threading.Lock(), threading.Event()
        self._left = False
        self.values: list[_T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            value = self._call()
        except BaseException as error:  # raised again where it is waited for
            self.error = error
        else:
            with self._lock:
                self.values.append(value)
                left = self._left
            if left:
                self._drop(value)
        self.ended.set()

    def leave(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._left, came = True, list(self.values)
        for value in came:
            self._drop(value)


def in_time(call: Callable[[], _T], seconds: float, *, drop: Callable[[_T], object] = lambda value: None) -> _T:
    """The value of a call, if it comes in time; otherwise its thread is left behind.

    Args:
        call: what waits for an answer.
        seconds: how long it may take.
        drop: closes a value that comes too late.

    Raises:
        LateError: it did not come in time.
        Exception: what the call raises.
    """
    made = _Call(call, drop)
    threading.Thread(target=made.run, name="answer", daemon=True).start()
    try:
        came = made.ended.wait(seconds)
    except BaseException:  # Ctrl-C
        made.leave()
        raise
    if not came:
        made.leave()
        raise LateError
    if made.error is not None:
        raise made.error
    return made.values[0]
