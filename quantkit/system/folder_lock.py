"""A lock on a folder or a file, which ends with the process that took it."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a folder with open files cannot be renamed
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
"""Whether the system has such locks."""


def lock_folder(folder: Path, *, shared: bool = False, wait: bool = False) -> int | None:
    """Lock a folder or a file until the file descriptor is closed; None where system or disk have no such locks.

    Args:
        folder: it must exist.
        shared: let others take it too, if they also share it.
        wait: for whoever has the lock.

    Raises:
        BlockingIOError: another process, or another thread of this one, has the lock, and *wait* is False.
        OSError: it cannot be opened.
    """
    if fcntl is None:
        return None
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        raise
    except OSError:
        os.close(fd)
        return None
    return fd
