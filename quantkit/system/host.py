"""Which machine this is, for names on disks that several machines share: a process id says nothing on another one."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_SPACE = Path("/proc/self/ns/pid")
_DIGITS = 8


@cache
def host_token() -> str:
    """16 hexadecimal digits: 8 of this start of this system, and 8 of the space of its process ids.

    Containers of one system share the first half, so locks are the same for them; a restarted system has another one.
    """
    boot = f"{socket.gethostname()} {uuid.getnode()}"
    with suppress(OSError):  # not Linux, or hidden
        boot = _BOOT_ID.read_text(encoding="ascii")
    space = ""
    with suppress(OSError):
        space = f"{os.stat(_PID_SPACE).st_dev} {os.stat(_PID_SPACE).st_ino}"
    return _short(boot) + _short(f"{boot} {space}")


def same_system(token: str) -> bool:
    """Whether a token is of this start of this system, perhaps of another container."""
    return token[:_DIGITS] == host_token()[:_DIGITS]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
