"""Signals that end the command as Ctrl-C does, and a Ctrl-C that would be lost."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What ends a program from outside: kill and systemd, and a terminal that is closed."""

_AGAIN = 0.05  # seconds


def _interrupt_main() -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)  # also out of a system call
    else:
        _thread.interrupt_main()


@contextmanager
def ends_cleanly() -> Iterator[None]:
    """In the block, :data:`ENDING` raise KeyboardInterrupt in the main thread, unless they are ignored (nohup).

    A KeyboardInterrupt that Python cannot pass on, because it was raised in a callback from C (llvmlite has some) or a
    finalizer, is raised again a moment later: else the program would go on.
    """
    before = {number: signal.getsignal(number) for number in ENDING}
    taken = [number for number, handler in before.items() if number == signal.SIGTERM or handler == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    hook = sys.unraisablehook

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)
            return
        again = threading.Timer(_AGAIN, _interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in taken:
            signal.signal(number, before[number])
