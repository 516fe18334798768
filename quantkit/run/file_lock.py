"""A file that one process at a time may write."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from quantkit.errors import OutputError

if sys.platform == "win32":
    import msvcrt

    # Other handles cannot read what is locked; nothing is ever written so far behind.
    _BEHIND = 2**62

    def _lock(file: BinaryIO) -> None:
        file.seek(_BEHIND)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def claimed(path: Path) -> Iterator[BinaryIO]:
    """The file, made where there is none, to read and append to; nobody else gets it until it is closed.

    Raises:
        OutputError: somebody else has it.
        OSError: it cannot be opened, or its file system has no locks.
    """
    with open(path, "a+b") as file:
        try:
            _lock(file)
            # Whoever had it until now may have moved or removed it.
            lost = not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, PermissionError):
            lost = True
        if lost:
            raise OutputError(f"{path}: another run is writing it", hint="wait for that run to end, or stop it")
        yield file


def release_on_windows(file: BinaryIO) -> None:
    """Give up the file there before it is moved or removed: no open one can be; elsewhere it stays claimed."""
    if sys.platform == "win32":
        file.close()
