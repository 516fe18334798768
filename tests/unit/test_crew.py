"""Threads that keep a backend open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from quantkit.engine import crew as module
from quantkit.engine.backend import Backend
from quantkit.engine.crew import opened_crew
from quantkit.engine.device import PROCESSOR, Device, Workers
from quantkit.engine.timeline import NoTimeline


def test_results_come_in_the_order_of_the_items() -> None:
    with opened_crew(Workers(3)) as crew:
        assert crew.map(lambda backend, item: item * item, range(50)) == [item * item for item in range(50)]
        assert crew.map(lambda backend, item: item, []) == []


def test_each_thread_opens_one_backend_and_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Backend] = []
    closed: list[Backend] = []

    class Counted(Backend):
        @contextmanager
        def active(self) -> Iterator[None]:
            opened.append(self)
            yield
            closed.append(self)

    monkeypatch.setattr(module, "open_backend", lambda device, name, timeline: Counted(name))
    with opened_crew(Workers(2)) as crew:
        used = {id(backend) for _ in range(3) for backend in crew.map(lambda backend, item: backend, range(20))}
        assert len(used) == len(opened) <= 2
        assert not closed
    assert set(map(id, closed)) == set(map(id, opened))


def test_the_first_error_is_raised_after_all_are_done() -> None:
    done: list[int] = []

    def work(backend: Backend, item: int) -> None:
        done.append(item)
        if item in {3, 5}:
            raise ValueError(item)

    with opened_crew(Workers(2)) as crew:
        with pytest.raises(ValueError, match="3"):
            crew.map(work, range(10))
        assert sorted(done) == list(range(10))
        assert crew.map(lambda backend, item: item, [1]) == [1]


def test_a_device_that_cannot_be_opened_fails_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: Device, name: str, timeline: NoTimeline) -> Backend:
        raise RuntimeError(f"no memory on {device}")

    monkeypatch.setattr(module, "open_backend", fail)
    with opened_crew(Workers(2, (PROCESSOR,))) as crew, pytest.raises(RuntimeError, match="no memory on cpu"):
        crew.map(lambda backend, item: item, range(4))
