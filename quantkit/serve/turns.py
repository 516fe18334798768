"""The thread in which the model works: it lets several answers advance in turns.

At each step every answer that is under way gets one token, and prompts share what room the step has beside those. What
waits begins in the order of its arrival.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from quantkit.run.lanes import Lane, Lanes


class Stepwise(Protocol):
    """What takes turns, such as :class:`quantkit.run.answer.DividedAnswer`."""

    def steps(self, lanes: Lanes) -> Generator[Any]:
        """Its parts, and its lane whenever that has to be evaluated before the next part."""


@dataclass(frozen=True)
class Load:
    """How much there is to do.

    Attributes:
        processing: answers under way.
        waiting: requests that wait.
        slots: answers that can be under way at a time.
        steps: calls of llama.cpp so far.
        busy: sum over these of the answers that advanced.
        kept: sequences of past answers that are kept for later prompts.
        kept_tokens: tokens in them.
    """

    processing: int
    waiting: int
    slots: int
    steps: int
    busy: int
    kept: int
    kept_tokens: int


@dataclass(eq=False)
class Turn:
    """An answer that waits or is under way. Its functions are called in the model's thread.

    Attributes:
        answer: gives the steps.
        tell: takes each part.
        ended: called at the end, with the error if there was one.
        go_on: whether it is still wanted; asked before it begins.
        alone: whether it has shared no step so far.
    """

    answer: Stepwise
    tell: Callable[[Any], object]
    ended: Callable[[Exception | None], object]
    go_on: Callable[[], bool]
    alone: bool = field(default=True, init=False)
    steps: Generator[Any] | None = field(default=None, init=False)
    lane: Lane | None = field(default=None, init=False)


class Place:
    """A context, what is under way in it, and what waits for it."""

    def __init__(self, lanes: Lanes) -> None:
        """Take a context; nothing else may use it from now on."""
        self.lanes = lanes
        self.active: list[Turn] = []
        self.waiting: deque[Turn] = deque()

    @property
    def has_work(self) -> bool:
        """Whether anything waits or is under way."""
        return bool(self.active or self.waiting)


class Turns:
    """One thread for all places. It does not keep the process from ending, because no step can be interrupted."""

    def __init__(self, places: Iterable[Place]) -> None:
        """Serve *places*, a step of each in turn."""
        self.places = tuple(places)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._steps = self._busy = 0

    @property
    def load(self) -> Load:
        """How much there is to do."""
        with self._changed:
            kept = [len(one.tokens) for place in self.places for one in place.lanes.kept]
            return Load(
                processing=sum(len(place.active) for place in self.places),
                waiting=sum(len(place.waiting) for place in self.places),
                slots=sum(place.lanes.parallel for place in self.places),
                steps=self._steps,
                busy=self._busy,
                kept=len(kept),
                kept_tokens=sum(kept),
            )

    def add(self, place: Place, turn: Turn) -> None:
        """Let *turn* begin when there is room in *place*."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="model", daemon=True)
                self._thread.start()
            place.waiting.append(turn)
            self._changed.notify_all()

    def withdraw(self, place: Place, turn: Turn) -> None:
        """Forget *turn* if it has not begun yet; its functions are not called then."""
        with self._changed:
            if turn in place.waiting:
                place.waiting.remove(turn)
                self._changed.notify_all()

    def is_idle(self, seconds: float) -> bool:
        """Wait up to *seconds* until the model is not used any more; returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not any(place.has_work for place in self.places), seconds)

    def _work(self) -> None:
        while True:
            for place in self.places:
                try:
                    self._step(place)
                except Exception as error:
                    self._give_up(place, error)
            with self._changed:
                self._changed.notify_all()
                self._changed.wait_for(lambda: any(place.has_work for place in self.places))

    def _step(self, place: Place) -> None:
        while turn := self._next(place):
            if not turn.go_on():
                self._end(place, turn, None)
                continue
            turn.steps = turn.answer.steps(place.lanes)
            self._advance(place, turn)
        if not place.active:
            return
        kind = _lane(place.active[0]).kind
        turns = [turn for turn in place.active if _lane(turn).kind == kind]
        with self._changed:
            place.active = [turn for turn in place.active if turn not in turns] + turns
        error: Exception | None = None
        try:
            place.lanes.step([_lane(turn) for turn in turns])
        except Exception as failed:
            error = failed
        self._steps, self._busy = self._steps + 1, self._busy + len(turns)
        alone = sum(len(one.active) for one in self.places) == 1
        for turn in turns:
            turn.alone = turn.alone and alone
            self._advance(place, turn, error)

    def _give_up(self, place: Place, error: Exception) -> None:
        """End all that is under way: this thread must go on, because all that comes waits for it."""
        for turn in list(place.active):
            with suppress(Exception):
                if turn.steps is not None:
                    turn.steps.close()
            with suppress(Exception):
                self._end(place, turn, error)

    def _next(self, place: Place) -> Turn | None:
        with self._changed:
            if not place.waiting or len(place.active) >= place.lanes.parallel:
                return None
            turn = place.waiting.popleft()
            place.active.append(turn)
            return turn

    def _advance(self, place: Place, turn: Turn, error: Exception | None = None) -> None:
        """Let *turn* go on, or fail with *error*, until its lane has something to evaluate."""
        assert turn.steps is not None
        try:
            if error is not None:
                turn.steps.throw(error)
            for step in turn.steps:
                if isinstance(step, Lane):
                    turn.lane = step
                    return
                turn.tell(step)
        except Exception as failed:
            self._end(place, turn, failed)
        else:
            self._end(place, turn, None)

    def _end(self, place: Place, turn: Turn, error: Exception | None) -> None:
        with self._changed:
            place.active.remove(turn)
        turn.ended(error)


def _lane(turn: Turn) -> Lane:
    assert turn.lane is not None, "what is active waits for its lane"
    return turn.lane
