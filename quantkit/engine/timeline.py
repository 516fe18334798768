"""A record of what each worker does when, in the trace format of chrome://tracing and Perfetto.

Events stay in memory until the end. Without a timeline a span is one shared object that does nothing.
"""

from __future__ import annotations

import contextlib
import json
import time
from contextlib import AbstractContextManager
from pathlib import Path

_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


class NoTimeline:
    """Records nothing."""

    on = False

    def span(self, track: str, name: str) -> AbstractContextManager[None]:
        """Record the time between entering and leaving, on the track of one worker."""
        return _NOTHING

    def add(self, track: str, name: str, start: float, end: float) -> None:
        """Record an interval, in seconds of ``time.perf_counter``."""


class Timeline(NoTimeline):
    """Records every span. Safe from any thread."""

    on = True

    def __init__(self) -> None:
        self._zero = time.perf_counter()
        self._events: list[tuple[str, str, float, float]] = []  # appending is atomic

    def span(self, track: str, name: str) -> AbstractContextManager[None]:
        return _Span(self, track, name)

    def add(self, track: str, name: str, start: float, end: float) -> None:
        self._events.append((track, name, start, end))

    def write(self, path: Path) -> None:
        """Write Chrome's trace format: complete events, in microseconds."""
        tracks = {track: number for number, track in enumerate(sorted({event[0] for event in self._events}))}
        events: list[dict[str, object]] = [
            {"ph": "M", "name": "thread_name", "pid": 0, "tid": number, "args": {"name": track}}
            for track, number in tracks.items()
        ]
        events += [
            {
                "ph": "X",
                "name": name,
                "pid": 0,
                "tid": tracks[track],
                "ts": round((start - self._zero) * 1e6, 1),
                "dur": round((end - start) * 1e6, 1),
            }
            for track, name, start, end in self._events
        ]
        path.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")


class _Span:
    __slots__ = ("_name", "_start", "_timeline", "_track")

    def __init__(self, timeline: Timeline, track: str, name: str) -> None:
        self._timeline, self._track, self._name = timeline, track, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._timeline.add(self._track, self._name, self._start, time.perf_counter())


NO_TIMELINE = NoTimeline()
