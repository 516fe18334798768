"""Answers several requests at a time, and ends an answer when its client disconnects."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace

from quantkit.chat_template.answer_reader import Part
from quantkit.run.answer import is_repeatable
from quantkit.run.asking import template_variables
from quantkit.run.context_window import visible_messages
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.lanes import Lanes
from quantkit.run.session import ChatModel
from quantkit.run.speed import slow_note
from quantkit.serve.errors import BusyError, StoppingError
from quantkit.serve.metrics import Totals
from quantkit.serve.request import ChatRequest
from quantkit.serve.speaking import Asked, Begun, Scored, SpokenAnswer, prepare_spoken
from quantkit.serve.turns import Load, Place, Turn, Turns
from quantkit.serve.worker import Worker

Item = Part | Scored | GenerationStats

MOST_WAITING = 64
"""Requests that wait for their turn."""


class Answers:
    """Answers requests in the order of their arrival, so many at a time in one context.

    A prompt is rendered and tokenized in a thread of its own, while others are answered.
    """

    def __init__(self, model: ChatModel, slow: Callable[[str], object] = str, lanes: Lanes | None = None) -> None:
        """Take *model*; nothing else may use its contexts from now on.

        Args:
            model: gives the answers.
            slow: is told once if it is absurdly slow.
            lanes: a context of it for several answers at a time; None for its own, which is for one. What must be
                repeatable is answered in that one, alone: sums depend on what else a step has, in their last bits.
        """
        self.model = model
        self._slow: Callable[[str], object] | None = slow
        self.totals = Totals()
        self._alone = Place(model.engine.lanes)
        self._shared = self._alone if lanes is None or lanes is model.engine.lanes else Place(lanes)
        self._turns = Turns(dict.fromkeys([self._shared, self._alone]))
        self._stopping = threading.Event()
        self._preparer, self._preparing = Worker(), asyncio.Lock()
        self._held: Counter[Place] = Counter()
        self._left = asyncio.Event()
        self._unprepared = 0

    def stop(self) -> None:
        """End the current answers, and refuse further ones."""
        self._stopping.set()

    @property
    def load(self) -> Load:
        """How much there is to do; what is not tokenized yet waits too."""
        load = self._turns.load
        return replace(load, waiting=load.waiting + self._unprepared)

    @property
    def parallel(self) -> int:
        """Answers at a time."""
        return self._shared.lanes.parallel

    def is_idle(self, seconds: float) -> bool:
        """Wait up to *seconds* until the model is not used any more; returns whether that is so."""
        return self._preparer.is_idle(seconds) and self._turns.is_idle(seconds)

    def has_room(self, request: Asked) -> bool:
        """Whether a lane is free for it, and nobody waits for that one."""
        place = self._place(request)
        return self._held[place] < place.lanes.parallel

    async def change(self) -> None:
        """Wait until an answer has ended."""
        await self._left.wait()

    async def stream(self, request: Asked, begun: Callable[[], object] = bool) -> AsyncGenerator[Item]:
        """Answer part by part, with the scores of the tokens if they are asked for; the last item is the statistics.

        Closing the generator ends the answer at its next step. No other answer waits for a slow reader. *begun* is
        called when the prompt has been evaluated, unless it ends before.

        Raises:
            ChatFormatError: the model's template rejects the conversation.
            ContextFullError: the conversation does not fit into the context.
            BusyError: too many requests wait already.
            StoppingError: see :meth:`stop`.
        """
        if self._held.total() >= MOST_WAITING + self.parallel:
            raise BusyError(f"{MOST_WAITING} requests are waiting for an answer already")
        left, place = threading.Event(), self._place(request)

        def go_on() -> bool:
            return not left.is_set() and not self._stopping.is_set()

        self._held[place] += 1
        try:
            answer, dropped = await self._prepared(request, go_on)
            async with aclosing(self._answered(answer, place, go_on, begun)) as parts:
                async for part in parts:
                    yield part
        finally:
            left.set()
            self._held[place] -= 1
            self._left.set()
            self._left = asyncio.Event()
        if answer.stats is None or answer.stats.stop_reason == "interrupted":
            raise StoppingError("the server is shutting down")
        yield replace(answer.stats, dropped_messages=dropped)

    def _place(self, request: Asked) -> Place:
        seed = request.settings.sampling.get("seed")
        return self._alone if is_repeatable(seed, request.reuse) else self._shared

    async def _prepared(self, request: Asked, go_on: Callable[[], bool]) -> tuple[SpokenAnswer, int]:
        """The answer before its first step, and how many messages were dropped."""

        def work() -> tuple[SpokenAnswer, int]:
            seen, dropped = self._visible(request)
            return prepare_spoken(self.model, seen, go_on), dropped

        def finished(working: asyncio.Future[tuple[SpokenAnswer, int]]) -> None:
            self._preparing.release()
            working.cancelled() or working.exception()  # marks it as retrieved: after a disconnect nobody else does

        self._unprepared += 1
        try:
            await self._preparing.acquire()
            working = self._preparer.run(work)
            working.add_done_callback(finished)
            return await asyncio.shield(working)
        finally:
            self._unprepared -= 1

    async def _answered(
        self, answer: SpokenAnswer, place: Place, go_on: Callable[[], bool], begun: Callable[[], object]
    ) -> AsyncGenerator[Part | Scored]:
        loop = asyncio.get_running_loop()
        parts: asyncio.Queue[Part | Scored | Begun | Exception | None] = asyncio.Queue()

        def tell(part: Part | Scored | Begun | Exception | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(parts.put_nowait, part)

        def ended(error: Exception | None) -> None:
            if answer.stats is not None and error is None:
                self._count(answer.stats, alone=turn.alone)
            tell(error)

        turn = Turn(answer, tell, ended, go_on)
        self._turns.add(place, turn)
        try:
            while (part := await parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, Begun):
                    begun()
                else:
                    yield part
        finally:
            self._turns.withdraw(place, turn)

    def _count(self, stats: GenerationStats, *, alone: bool) -> None:
        self.model.last_stats = stats
        if self._slow and alone and (note := slow_note(self.model)):
            self._slow(note)
            self._slow = None
        self.totals = self.totals.with_answer(stats)

    def _visible(self, request: Asked) -> tuple[Asked, int]:
        """The request without messages for which there is no room, if it allows that, and how many these are."""
        if not isinstance(request, ChatRequest) or not request.truncates:
            return request, 0
        told = template_variables(request.settings, request.tools)
        longest = request.settings.max_tokens
        messages, dropped = visible_messages(self.model, request.messages, longest=longest, told=told)
        return replace(request, messages=tuple(messages)), dropped
