"""Threads that each keep a backend open, for work that is no stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from quantkit.engine.backend import Backend
from quantkit.engine.device import Device, Workers
from quantkit.engine.stream import open_backend
from quantkit.engine.timeline import NO_TIMELINE

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
_Task = tuple[Callable[[Backend, Any], Any], Any, "Future[Any]"]


@dataclass(frozen=True, eq=False)
class Crew:
    """Threads that wait for tasks.

    Attributes:
        tasks: what to do, with what, and where the result goes; None ends a thread.
    """

    tasks: SimpleQueue[_Task | None]

    def map(self, work: Callable[[Backend, _Item], _Found], items: Iterable[_Item]) -> list[_Found]:
        """What *work* makes of each item with the backend of the thread that takes it, in the order of the items.

        Raises:
            BaseException: what the first item that failed raised.
        """
        futures: list[Future[_Found]] = []
        for item in items:
            futures.append(Future())
            self.tasks.put((work, item, futures[-1]))
        errors = [future.exception() for future in futures]
        if (first := next(filter(None, errors), None)) is not None:
            raise first
        return [future.result() for future in futures]


@contextmanager
def opened_crew(workers: Workers) -> Iterator[Crew]:
    """A crew of as many threads as there are workers, for the time of the block."""
    crew = Crew(SimpleQueue())
    with ThreadPoolExecutor(workers.threads, thread_name_prefix="crew") as pool:
        for number in range(workers.threads):
            pool.submit(_serve, crew.tasks, workers.devices[number % len(workers.devices)])
        try:
            yield crew
        finally:
            with suppress(Empty):  # after an interrupt: what nobody waits for any more
                while True:
                    crew.tasks.get_nowait()
            for _ in range(workers.threads):
                crew.tasks.put(None)


def _serve(tasks: SimpleQueue[_Task | None], device: Device) -> None:
    """Do one task after the other. If the device cannot be opened, each task fails with the reason."""
    with ExitStack() as stack:
        backend: Backend | None = None
        while (task := tasks.get()) is not None:
            work, item, future = task
            try:
                if backend is None:
                    found = open_backend(device, str(device), NO_TIMELINE)
                    stack.enter_context(found.active())
                    backend = found
                with np.errstate(all="ignore"):
                    future.set_result(work(backend, item))
            except BaseException as error:
                future.set_exception(error)
