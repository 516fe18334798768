"""The devices to compute on, and the number of workers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from quantkit.engine import ranges
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.errors import QuantkitError
from quantkit.system.processors import usable_processors

PROCESSOR = torch.device("cpu")
# More workers would wait for the files' locks, and each needs its own buffers.
_WORKERS_A_DEVICE = 16


@dataclass(frozen=True)
class Workers:
    """The workers of a stream.

    Attributes:
        threads: the number of workers; it does not affect the output.
        devices: the devices that the workers are distributed over.
        timeline: records what they do.
    """

    threads: int
    devices: tuple[torch.device, ...] = (PROCESSOR,)
    timeline: NoTimeline = NO_TIMELINE

    @property
    def kind(self) -> str:
        """The kind of device: ``cpu`` or ``cuda``."""
        return self.devices[0].type

    @property
    def cuda(self) -> bool:
        """Whether the workers compute on CUDA devices."""
        return self.kind == "cuda"

    @property
    def chunk(self) -> int | None:
        """Weights per range; None for the processor's default."""
        return ranges.DEVICE_CHUNK_WEIGHTS if self.cuda else None


def processor_workers(threads: int | None) -> Workers:
    """Choose workers on the processor, by default one per core."""
    return Workers(threads or usable_processors())


def choose_workers(device: str, threads: int | None) -> Workers:
    """Choose workers on the devices a user names, by default one per core up to what the devices can use.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: the number of workers; None for the default.

    Raises:
        QuantkitError: the device does not exist.
    """
    devices = choose_devices(device)
    if devices[0].type == "cpu":
        return processor_workers(threads)
    most = _WORKERS_A_DEVICE * len(devices)
    return Workers(threads or max(len(devices), min(usable_processors(), most)), devices)


def choose_devices(name: str) -> tuple[torch.device, ...]:
    """Choose the devices a user names: ``auto``, ``cpu``, ``cuda`` (all CUDA devices) or ``cuda:N``.

    Raises:
        QuantkitError: the device does not exist.
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
    torch.backends.cuda.matmul.allow_tf32 = False  # TF32 would round the factors of float32 products
    return tuple(torch.device("cuda", index) for index in ([int(number)] if number else range(count)))
