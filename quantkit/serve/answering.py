"""Generates one answer at a time, in a separate thread, and stops when its client disconnects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

from quantkit.chat_template.answer_reader import Part
from quantkit.run.context_window import visible_messages
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.session import ChatModel, Messages
from quantkit.run.settings import stream_answer, template_variables
from quantkit.run.speed import slow_note
from quantkit.serve.errors import BusyError, StoppingError
from quantkit.serve.metrics import Totals
from quantkit.serve.request import ChatRequest
from quantkit.serve.worker import Worker

MOST_WAITING = 64
"""Requests that wait for their turn."""


class Answers:
    """Answers requests one by one, in the order of their arrival: a model has one context."""

    def __init__(self, model: ChatModel, slow: Callable[[str], object] = str) -> None:
        """Take *model*; nothing else may use it from now on. *slow* is told once if it is absurdly slow."""
        self.model = model
        self._slow: Callable[[str], object] | None = slow
        self.totals = Totals()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._stopping = threading.Event()
        self._worker = Worker()

    def stop(self) -> None:
        """End the current answer, and refuse further ones."""
        self._stopping.set()

    @property
    def requests(self) -> tuple[int, int]:
        """How many are being answered, and how many wait."""
        return int(self._turn.locked()), self._waiting

    def is_idle(self, seconds: float) -> bool:
        """Wait up to *seconds* until the model is not used any more; returns whether that is so."""
        return self._worker.is_idle(seconds)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Part | GenerationStats]:
        """Answer part by part; the last item is the statistics.

        Closing the generator ends the answer at its next step. The next answer does not wait for a slow reader.

        Raises:
            ChatFormatError: the model's template rejects the conversation.
            ContextFullError: the conversation does not fit into the context.
            BusyError: too many requests wait already.
            StoppingError: see :meth:`stop`.
        """
        loop = asyncio.get_running_loop()
        parts: asyncio.Queue[Part | None] = asyncio.Queue()
        left = threading.Event()

        def go_on() -> bool:
            return not left.is_set() and not self._stopping.is_set()

        def work() -> GenerationStats:
            messages, dropped = self._visible(request)
            options: dict[str, Any] = {"tools": request.tools, "go_on": go_on, "reuse": request.reuse}
            for part in stream_answer(self.model, messages, request.settings, **options):
                loop.call_soon_threadsafe(parts.put_nowait, part)
            assert self.model.last_stats is not None
            if self._slow and (note := slow_note(self.model)):
                self._slow(note)
                self._slow = None
            self.totals = self.totals.with_answer(self.model.last_stats)
            return replace(self.model.last_stats, dropped_messages=dropped)

        def finished(work: asyncio.Future[GenerationStats]) -> None:
            self._turn.release()
            parts.put_nowait(None)
            work.exception()  # marks it as retrieved, because after a disconnect nobody else does

        await self._take_turn()
        working = self._worker.run(work)
        working.add_done_callback(finished)
        try:
            while (part := await parts.get()) is not None:
                yield part
            stats = await working
        finally:
            left.set()
        if stats.stop_reason == "interrupted":
            raise StoppingError("the server is shutting down")
        yield stats

    def _visible(self, request: ChatRequest) -> tuple[Messages, int]:
        if not request.truncates:
            return request.messages, 0
        told = template_variables(request.settings, request.tools)
        return visible_messages(self.model, request.messages, longest=request.settings.max_tokens, told=told)

    async def _take_turn(self) -> None:
        if self._waiting >= MOST_WAITING:
            raise BusyError(f"{MOST_WAITING} requests are waiting for an answer already")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
