"""Processes that write in a folder: those that a program has started may go on for a minute when it was killed.

They are told by what they have open, not by their ids or names, which others get, too.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROCESSES = Path("/proc")
_LOOK = 0.05  # seconds


def end_writers(folder: Path, seconds: float = 10.0) -> None:
    """End, and wait for, the other processes of this user that have a file below *folder* open for writing.

    Those that only read there are left alone. Where the system does not say what processes have open (it is Linux that
    does), nothing is done.

    Args:
        folder: it may be gone, with files in it that are still open.
        seconds: how long it waits at most.
    """
    within = os.path.join(os.path.realpath(folder), "")
    deadline = time.monotonic() + seconds
    while _end_each(within) and time.monotonic() < deadline:
        time.sleep(_LOOK)


def _end_each(within: str) -> bool:
    """End each of them; whether there were any."""
    found = False
    for pid in _others():
        with suppress(OSError):  # it has ended
            watch = os.pidfd_open(pid)  # so that no process which gets its id is meant
            try:
                if _writes(_PROCESSES / str(pid), within):
                    found = True
                    signal.pidfd_send_signal(watch, signal.SIGKILL)
            finally:
                os.close(watch)
    return found


def _others() -> Iterator[int]:
    """The processes of this user, without this one."""
    with suppress(OSError):  # not Linux
        for entry in os.scandir(_PROCESSES):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if entry.stat().st_uid == os.geteuid():
                        yield int(entry.name)


def _writes(process: Path, within: str) -> bool:
    for name in os.listdir(process / "fd"):
        with suppress(OSError):  # it has just been closed
            if os.readlink(process / "fd" / name).startswith(within) and _for_writing(process / "fdinfo" / name):
                return True
    return False


def _for_writing(info: Path) -> bool:
    flags = next(line for line in info.read_text(encoding="ascii").splitlines() if line.startswith("flags:"))
    return int(flags.partition(":")[2], 8) & os.O_ACCMODE != os.O_RDONLY
