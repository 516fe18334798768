"""Where to compute, and with how many workers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from quantkit.engine import ranges
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.errors import QuantkitError
from quantkit.system.processors import usable_processors

PROCESSOR = torch.device("cpu")
# More would wait for the files' locks, and each has its buffers.
_WORKERS_A_DEVICE = 16


@dataclass(frozen=True)
class Workers:
    """The workers of a stream.

    Attributes:
        threads: how many. Does not change the result.
        devices: they are dealt over these.
        timeline: told what they do.
    """

    threads: int
    devices: tuple[torch.device, ...] = (PROCESSOR,)
    timeline: NoTimeline = NO_TIMELINE

    @property
    def cuda(self) -> bool:
        """Whether they compute on CUDA devices."""
        return self.devices[0].type == "cuda"

    @property
    def chunk(self) -> int | None:
        """Weights in a range; None for what suits processors."""
        return ranges.DEVICE_CHUNK_WEIGHTS if self.cuda else None


def processor_workers(threads: int | None) -> Workers:
    """Workers on the processor, default one a core."""
    return Workers(threads or usable_processors())


def choose_workers(device: str, threads: int | None) -> Workers:
    """Workers on the devices a user asked for, default one a core and no more than the devices can use.

    Raises:
        QuantkitError: there is no such device.
    """
    devices = choose_devices(device)
    if devices[0].type == "cpu":
        return processor_workers(threads)
    most = _WORKERS_A_DEVICE * len(devices)
    return Workers(threads or max(len(devices), min(usable_processors(), most)), devices)


def choose_devices(name: str) -> tuple[torch.device, ...]:
    """The devices a user asked for: ``auto``, ``cpu``, ``cuda`` (all of them) or ``cuda:N``.

    Raises:
        QuantkitError: there is no such device.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise QuantkitError(f"device {name!r} is unknown", hint="use auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return (PROCESSOR,)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and not count:
        return (PROCESSOR,)
    number = match[1]
    if int(number or 0) >= count:
        raise QuantkitError(f"device {name!r}: this machine has {count} CUDA devices", hint="pass --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 sums are float32 sums
    return tuple(torch.device("cuda", index) for index in ([int(number)] if number else range(count)))
