"""Several answers to one request, beside each other in lanes that nobody else waits for.

What a request has beyond one answer at a time begins only where a lane is free and no other request waits. So it can
wait in the queue once, as a request for one answer does, and never goes before another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import anyio

from quantkit.run.generation_stats import GenerationStats
from quantkit.serve.answering import Answers, Item
from quantkit.serve.speaking import Asked


async def all_answers(answers: Answers, asked: Sequence[Asked]) -> AsyncGenerator[tuple[int, Item]]:
    """Answer requests, each item with the index of its request; items of different ones come as they are made.

    The answers begin in their order, each when the prompt of the one before it has been evaluated, which it takes over
    as far as it is its own. Those with a seed follow one another: each needs a context for itself.

    Raises:
        QuantkitError: as :meth:`Answers.stream`; the other answers end then.
    """
    if len(asked) == 1:
        async with aclosing(answers.stream(asked[0])) as items:
            async for item in items:
                yield 0, item
        return
    several = _Several(answers, len(asked))
    tasks = [asyncio.create_task(several.answer(index, request)) for index, request in enumerate(asked)]
    left = len(tasks)
    try:
        while left:
            index, told = await several.told.get()
            if isinstance(told, Exception):
                raise told
            left -= isinstance(told, GenerationStats)
            yield index, told
    finally:
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*tasks, return_exceptions=True)


class _Several:
    """What the answers to one request have in common.

    Attributes:
        told: what they say, or why there is no answer.
    """

    def __init__(self, answers: Answers, count: int) -> None:
        self.told: asyncio.Queue[tuple[int, Item | Exception]] = asyncio.Queue()
        self._answers = answers
        self._begun = [asyncio.Event() for _ in range(count)]
        self._under_way = 0

    async def answer(self, index: int, request: Asked) -> None:
        """Give the answer with this index when it is its turn."""
        if index:
            await self._begun[index - 1].wait()
        # Between the look and the first step of the stream, which takes the place, nothing else runs.
        while self._under_way and not self._answers.has_room(request):
            await self._answers.change()
        self._under_way += 1
        try:
            async with aclosing(self._answers.stream(request, self._begun[index].set)) as items:
                async for item in items:
                    self.told.put_nowait((index, item))
        except Exception as error:
            self.told.put_nowait((index, error))
        finally:
            self._under_way -= 1
            self._begun[index].set()
