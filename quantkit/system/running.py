"""Whether a process is running."""

from __future__ import annotations

import os


def is_running(pid: int) -> bool:
    """Whether another process with this id is running; where the system does not say, True."""
    if pid == os.getpid():
        return False  # in a container every run may have the same process id
    if os.name != "posix":
        return True  # Windows has no harmless way to ask
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
