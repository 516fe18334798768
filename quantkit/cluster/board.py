"""What is going on elsewhere: work on any node tells a board beside the one who waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from quantkit.system.progress import Reporter

# Seconds between two tellings of the same phase.
_EVERY = 0.5
# How often a board may lose its process.
_RESTARTS = 3


class Board:
    """Messages in the order in which they came. An actor of Ray's."""

    def __init__(self) -> None:
        self._told: list[tuple[int, str, Any]] = []

    def tell(self, key: int, what: str, value: Any) -> None:
        """Keep a message about the work *key*."""
        self._told.append((key, what, value))

    def take(self) -> list[tuple[int, str, Any]]:
        """The messages since the last call."""
        told, self._told = self._told, []
        return told


def open_board(ray: Any) -> Any:
    """A board on the node of this process, so that it is there as long as whoever asks it.

    If its process is killed there is a new one: what it had been told is lost, and nothing waits for that.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    again = {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here, **again).remote()


class BoardReporter(Reporter):
    """Tells a board of the progress of one piece of work."""

    def __init__(self, board: Any, key: int) -> None:
        super().__init__()
        self._board, self._key = board, key

    def tell(self, what: str, value: Any) -> None:
        """Tell, and do not wait for the board."""
        self._board.tell.remote(self._key, what, value)

    @contextlib.contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        self.tell("phase", (name, 0.0))
        lock, done, told = threading.Lock(), 0, monotonic()

        def advance(amount: int) -> None:
            nonlocal done, told
            with lock:
                done += amount
                if (now := monotonic()) - told < _EVERY:
                    return
                told = now
            self.tell("phase", (name, done / total if total else 1.0))

        yield advance
