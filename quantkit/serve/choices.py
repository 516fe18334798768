"""The answers to one request: one, or several to the same question or to several prompts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from quantkit.chat_template.answer_reader import Part
from quantkit.chat_template.call_reader import Call
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.logprobs import TokenScore
from quantkit.serve.answering import Answers, Item
from quantkit.serve.reply import Choice
from quantkit.serve.speaking import Asked, Scored

Items = AsyncIterator[tuple[int, Item]]


async def all_answers(answers: Answers, asked: Sequence[Asked]) -> AsyncGenerator[tuple[int, Item]]:
    """Answer requests one after another, each item with the index of its request.

    Each waits for a turn of its own, so that a request for many answers does not keep others waiting for all of them.
    """
    for index, request in enumerate(asked):
        async with aclosing(answers.stream(request)) as items:
            async for item in items:
                yield index, item


@dataclass
class _Growing:
    parts: list[Part] = field(default_factory=list)
    tokens: list[TokenScore] | None = None
    sent: int = 0
    stats: GenerationStats | None = None


class Collector:
    """Gathers the items of answers."""

    def __init__(self) -> None:
        self._found: dict[int, _Growing] = {}

    def add(self, index: int, item: Item) -> None:
        """Take the next item of the answer with this index."""
        one = self._found.setdefault(index, _Growing())
        if isinstance(item, Scored):
            one.tokens = [*(one.tokens or []), *item.tokens]
        elif isinstance(item, GenerationStats):
            one.stats = item
        else:
            one.parts.append(item)

    def calls(self, index: int) -> int:
        """How many calls of tools an answer has so far."""
        return sum(isinstance(part, Call) for part in self._found[index].parts) if index in self._found else 0

    def unsent(self, index: int) -> list[TokenScore] | None:
        """The scores that no chunk has had yet; None if nobody asked for scores."""
        one = self._found.get(index)
        return None if one is None or one.tokens is None else one.tokens[one.sent :]

    def sent(self, index: int) -> None:
        """Count all scores so far as sent."""
        one = self._found[index]
        one.sent = len(one.tokens or [])

    @property
    def choices(self) -> list[Choice]:
        """The whole answers."""
        whole = []
        for _, one in sorted(self._found.items()):
            assert one.stats is not None, "an answer ends with its statistics"
            whole.append(Choice(one.parts, one.tokens, one.stats))
        return whole


def together(choices: Sequence[Choice], n: int) -> GenerationStats:
    """The statistics of several answers: their sums. A prompt counts once, whatever the number *n* of its answers."""
    stats = [choice.stats for choice in choices]
    prompts = stats[::n]
    return replace(
        stats[0],
        prompt_tokens=sum(one.prompt_tokens for one in prompts),
        prompt_seconds=sum(one.prompt_seconds for one in prompts),
        reused_tokens=sum(one.reused_tokens for one in prompts),
        generated_tokens=sum(one.generated_tokens for one in stats),
        generation_seconds=sum(one.generation_seconds for one in stats),
    )
