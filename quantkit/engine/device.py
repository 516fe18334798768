"""Where to compute, and with how many workers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quantkit.engine import ranges
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.errors import QuantkitError
from quantkit.kernels import cuda_driver
from quantkit.system.processors import usable_processors

# More would wait for the files' turns, and each has its buffers.
_WORKERS_PER_DEVICE = 12


@dataclass(frozen=True)
class Device:
    """A place to compute.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        index: which of several.
    """

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


PROCESSOR = Device("cpu")


@dataclass(frozen=True)
class Workers:
    """The workers of a stream.

    Attributes:
        threads: how many. Does not change the result.
        devices: they are dealt over these.
        timeline: told what they do.
    """

    threads: int
    devices: tuple[Device, ...] = (PROCESSOR,)
    timeline: NoTimeline = NO_TIMELINE

    @property
    def kind(self) -> str:
        """The kind of device: ``cpu`` or ``cuda``."""
        return self.devices[0].kind

    @property
    def cuda(self) -> bool:
        """Whether the workers compute on CUDA devices."""
        return self.kind == "cuda"

    @property
    def chunk(self) -> int | None:
        """Weights in a range; None for what suits processors."""
        return ranges.DEVICE_CHUNK_WEIGHTS if self.cuda else None


def processor_workers(threads: int | None) -> Workers:
    """Workers on the processor, default one per core."""
    return Workers(threads or usable_processors())


def choose_workers(device: str, threads: int | None) -> Workers:
    """Workers on the devices a user asked for, default one per core and no more than the devices can use.

    Raises:
        QuantkitError: there is no such device.
    """
    devices = choose_devices(device)
    if devices[0].kind == "cpu":
        return processor_workers(threads)
    most = _WORKERS_PER_DEVICE * len(devices)
    return Workers(threads or max(len(devices), min(usable_processors(), most)), devices)


def choose_devices(name: str) -> tuple[Device, ...]:
    """The devices a user asked for: ``auto``, ``cpu``, ``cuda`` (all of them) or ``cuda:N``.

    Raises:
        QuantkitError: there is no such device.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise QuantkitError(f"device {name!r} is unknown", hint="use auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return (PROCESSOR,)
    count, why = cuda_driver.device_count()
    if name == "auto" and not count:
        return (PROCESSOR,)
    number = match[1]
    if int(number or 0) >= count:
        reason = f"this machine has {count} CUDA devices" + (f" ({why})" if why else "")
        raise QuantkitError(f"device {name!r}: {reason}", hint="pass --device cpu")
    return tuple(Device("cuda", index) for index in ([int(number)] if number else range(count)))
