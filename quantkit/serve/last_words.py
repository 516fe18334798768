"""What a server leaves to know: whether it was ready, what it was answering when it died, and what clients have set.

It stands in a file without a name that the supervisor has open too. A kill cannot take back what was written to it, and
writing costs a system call at the beginning and the end of an answer.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_MOST_SAID = 3  # answers by name; the rest is counted
_SIZE = 1 << 16  # bytes, many times what is written


@dataclass(frozen=True)
class Found:
    """What was left.

    Attributes:
        ready: when it was ready for requests, in seconds of the system's monotonic clock; None if it never was.
        answering: ids of answers under way, in the order in which they began; at most three of the latest.
        more: how many others there were.
        scales: of the LoRA files, as clients have set them; None if nobody has.
    """

    ready: float | None = None
    answering: tuple[str, ...] = ()
    more: int = 0
    scales: tuple[float, ...] | None = None


class LastWords:
    """Writes down what a server does. For one thread.

    Attributes:
        scales: see :class:`Found`; those of the server before at first.
    """

    def __init__(self, file: int | None = None) -> None:
        """Begin anew in a file of which this is the descriptor, or, without one, write to nowhere."""
        self._file = file
        self._ready: float | None = None
        self._answering: dict[str, None] = {}
        self.scales = None if file is None else last_words(file).scales
        self._write()

    def keep_scales(self, scales: tuple[float, ...]) -> None:
        """Clients have set the scales of the LoRA files: the next server begins with them."""
        self.scales = scales
        self._write()

    def say_ready(self) -> None:
        """The server takes requests from now on."""
        self._ready = time.monotonic()
        self._write()

    @contextmanager
    def answering(self, name: str) -> Iterator[None]:
        """In the block, the answer with this id is under way."""
        self._answering[name] = None
        self._write()
        try:
            yield
        finally:
            del self._answering[name]
            self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        latest = list(self._answering)[-_MOST_SAID:]
        more = len(self._answering) - len(latest)
        found = {"ready": self._ready, "answering": latest, "more": more, "scales": self.scales}
        with suppress(OSError):  # a full disk: then nothing is known, and the server goes on
            os.pwrite(self._file, json.dumps(found).encode() + b"\n", 0)


def last_words(file: int) -> Found:
    """What a server that has ended left in the file; nothing if it cannot be read."""
    line = os.pread(file, _SIZE, 0).partition(b"\n")[0]
    try:
        said = json.loads(line)
        scales = said["scales"]
        return Found(said["ready"], tuple(said["answering"]), said["more"], None if scales is None else tuple(scales))
    except (ValueError, TypeError, KeyError):
        return Found()
