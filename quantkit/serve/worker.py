"""Threads for work that takes too long for the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

_all: weakref.WeakSet[Worker] = weakref.WeakSet()


def all_idle(seconds: float) -> bool:
    """Wait up to *seconds* for each worker's work; returns whether all is done, so that the model may be freed."""
    return all(worker.is_idle(seconds) for worker in list(_all))


class Worker:
    """One thread that does one thing at a time.

    It does not keep the process from ending, as the threads of an executor do: neither llama.cpp nor a process that is
    asked something can be interrupted.
    """

    def __init__(self) -> None:
        self._tasks: queue.Queue[Callable[[], None]] = queue.Queue()
        self._thread: threading.Thread | None = None
        _all.add(self)

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begin *work* when what is before it is done, unless nobody waits for it any more then."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def tell(set_result: Callable[..., None], value: object) -> None:
            def told() -> None:
                if not result.done():
                    set_result(value)

            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(told)

        def task() -> None:
            if result.cancelled():
                return
            try:
                value = work()
            except BaseException as error:
                tell(result.set_exception, error)
            else:
                tell(result.set_result, value)

        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
            self._thread.start()
        self._tasks.put(task)
        return result

    def is_idle(self, seconds: float) -> bool:
        """Wait up to *seconds* for all work; returns whether it is done."""
        with self._tasks.all_tasks_done:
            return self._tasks.all_tasks_done.wait_for(lambda: not self._tasks.unfinished_tasks, seconds)

    def _work(self) -> None:
        while True:
            self._tasks.get()()
            self._tasks.task_done()
