"""How long tests wait: for what must happen, until it has happened, with one bound for all of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 300.0
"""Seconds for anything. Only a hang takes so long: what takes a second alone takes twenty beside twenty others."""

_LOOK = 0.005  # seconds between two looks

T = TypeVar("T")


def wait_for(found: Callable[[], T], process: subprocess.Popen[str] | subprocess.Popen[bytes] | None = None) -> T:
    """What *found* returns, as soon as it is true.

    Args:
        found: looks.
        process: without which it cannot come any more.

    Raises:
        AssertionError: it has not come within :data:`PATIENCE`, or the process has ended before.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        ended = process is not None and process.poll() is not None
        if value := found():
            return value
        assert not ended, f"the process has ended with {process and process.returncode}"
        assert time.monotonic() < deadline, f"not to be seen within {PATIENCE:g} seconds"
        time.sleep(_LOOK)
