"""How much memory this process has."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

_STATUS = re.compile(r"^(VmHWM|VmRSS):\s+([0-9]+) kB$", re.MULTILINE)


def peak_memory() -> int | None:
    """The most memory that this process has had, in bytes; None where the system does not say.

    Linux counts what the program that started this one had into ``ru_maxrss``, so that is only for other systems.
    """
    return _told("VmHWM") or _most()


def present_memory() -> int | None:
    """The memory that this process has now, in bytes; where the system does not say, the most that it has had."""
    return _told("VmRSS") or _most()


def _told(name: str) -> int | None:
    with suppress(OSError):
        found = dict(_STATUS.findall(Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")))
        return 1024 * int(found[name]) if name in found else None
    return None


def _most() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
