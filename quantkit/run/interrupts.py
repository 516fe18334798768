"""Ctrl-C while llama.cpp works.

llama.cpp calls back into Python (its log, its progress), and a KeyboardInterrupt that is raised inside such a callback
is printed and lost. So Ctrl-C is only noted while a long call runs, and raised when it is over.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C inside the block and raise KeyboardInterrupt at its end.

    Yields a function that says whether Ctrl-C was pressed, so that the work can be cut short. Where Ctrl-C does not
    raise KeyboardInterrupt here anyway (another thread, a handler of the program's own) nothing is changed.
    """
    pressed = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    def was_pressed() -> bool:
        return pressed

    ours = []
    if threading.current_thread() is threading.main_thread():
        # The command line lets SIGTERM end the program as Ctrl-C does.
        ours = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is signal.default_int_handler]
    for number in ours:
        signal.signal(number, note)
    try:
        yield was_pressed
    finally:
        for number in ours:
            signal.signal(number, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


def always() -> bool:
    """The ``go_on`` of work that nobody cuts short."""
    return True
