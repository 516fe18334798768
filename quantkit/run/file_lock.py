"""A file that only one process may write at a time."""

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

    # Other handles cannot read locked bytes, so the lock is on one that is never written.
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
    """Open the file for reading and appending, creating it if needed, and lock it until it is closed.

    Raises:
        OutputError: another process has it.
        OSError: it cannot be opened, or its file system does not support locks.
    """
    with open(path, "a+b") as file:
        try:
            _lock(file)
            # The previous owner may have moved or removed it.
            lost = not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, PermissionError):
            lost = True
        if lost:
            raise OutputError(f"{path}: another run is writing this file", hint="wait for that run to end, or stop it")
        yield file


def release_on_windows(file: BinaryIO) -> None:
    """Close the file on Windows, where an open file cannot be moved or removed; elsewhere it stays locked."""
    if sys.platform == "win32":
        file.close()
