"""Facts about a load that llama.cpp writes to its log but does not return."""

from __future__ import annotations

import re

_ASSIGNED = re.compile(r"^load_tensors: layer +\d+ assigned to device ([^,\s]+)", re.MULTILINE)
_REASON = re.compile(r"error loading model: (.+)")


def count_offloaded(log: str) -> int:
    """Count the layers, including the output layer, that llama.cpp's load log assigns to a device other than the CPU.

    Its summary "offloaded 33/33 layers" repeats the request, even if no GPU was found; the assignments are real.
    """
    return sum(device != "CPU" for device in _ASSIGNED.findall(log))


def failure_reason(log: str) -> str:
    """Return the line of llama.cpp's log that says why it failed."""
    if found := _REASON.findall(log):
        return str(found[-1]).strip()
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
