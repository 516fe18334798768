"""Ctrl-C while llama.cpp is working.

llama.cpp calls back into Python (for its log and its progress), and a KeyboardInterrupt raised inside such a callback
is printed and lost. So Ctrl-C is only recorded while a long call runs, and raised when the call returns.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from quantkit.system.interrupts import ENDING


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """Record Ctrl-C inside the block and raise KeyboardInterrupt at its end.

    Yields a function that says whether Ctrl-C was pressed, so that the work can stop early. Where Ctrl-C would not
    raise KeyboardInterrupt here anyway (another thread, a custom handler) nothing changes.
    """
    pressed = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    def was_pressed() -> bool:
        return pressed

    ours = []
    if threading.current_thread() is threading.main_thread():
        # The command line lets others end the program as Ctrl-C does.
        ours = [s for s in (signal.SIGINT, *ENDING) if signal.getsignal(s) is signal.default_int_handler]
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
    """The ``go_on`` of work that is never stopped early."""
    return True
