"""Whether a run on another machine lives: locks of a shared disk may not reach from one to the other, but times do.

A run touches its temporary folder every :data:`BEAT` seconds. The disk's own clock counts, on both sides.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT = 10.0  # seconds
# A network file system shows times that are up to a minute old.
SILENT = 120.0  # seconds
_LOOK = 5.0  # seconds between two looks


@contextmanager
def heartbeat(folder: Path) -> Iterator[None]:
    """Touch a folder now and then, as long as it is there."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):
                os.utime(folder)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def silence(path: Path) -> float:
    """Seconds for which nobody has touched or renamed something, by the clock of its disk; 0 if it is gone."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            return max(0.0, os.fstat(probe.fileno()).st_ctime - os.lstat(path).st_ctime)
    except OSError:
        return 0.0


def is_silent(path: Path, wait: Callable[[str], None] | None) -> bool:
    """Whether a run on another machine that makes this is over.

    Args:
        path: its temporary folder, or what it moved aside.
        wait: until it has been silent for long enough, or is touched; told why. None: what was touched lately lives.
    """
    before = silence(path)
    if before < SILENT and wait is not None:
        wait(f"{path}: a run on another machine may still be at it; looking for {SILENT - before:.0f} s")
    while (now := silence(path)) < SILENT:
        if wait is None or now < before:
            return False
        before = now
        time.sleep(min(_LOOK, SILENT - now))
    return True
