"""What llama.cpp's log of a load tells, and its interface does not."""

from __future__ import annotations

import re

_ASSIGNED = re.compile(r"^load_tensors: layer +\d+ assigned to device ([^,\s]+)", re.MULTILINE)
_REASON = re.compile(r"error loading model: (.+)")


def count_offloaded(log: str) -> int:
    """Layers, the output layer as one more, that llama.cpp's log of a load assigns to another device than the CPU.

    Its summary "offloaded 33/33 layers" is what was asked for, even where no GPU was found; the assignments are real.
    """
    return sum(device != "CPU" for device in _ASSIGNED.findall(log))


def failure_reason(log: str) -> str:
    """The line of llama.cpp's log that says why it gave up."""
    if found := _REASON.findall(log):
        return str(found[-1]).strip()
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it gives no reason"
