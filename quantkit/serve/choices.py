"""What the answers to one request have said: one, or several to the same question or to several prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from quantkit.chat_template.answer_reader import Part
from quantkit.chat_template.call_reader import Call
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.logprobs import TokenScore
from quantkit.serve.answering import Item
from quantkit.serve.errors import BusyError
from quantkit.serve.reply import Choice
from quantkit.serve.speaking import Scored

Items = AsyncIterator[tuple[int, Item]]

MOST_SCORES = 2**19
"""Probabilities that are held for all answers together until these are sent, a hundred megabytes of them."""


@dataclass
class HeldScores:
    """How many probabilities are held.

    Attributes:
        count: of tokens, and of alternatives to them.
    """

    count: int = 0


@dataclass
class _Growing:
    parts: list[Part] = field(default_factory=list)
    tokens: list[TokenScore] | None = None
    stats: GenerationStats | None = None


class Collector(AbstractContextManager["Collector"]):
    """Gathers the items of answers to one request, and holds them inside of the context."""

    def __init__(self, held: HeldScores) -> None:
        """Prepare; *held* is what all requests have in common."""
        self._found: dict[int, _Growing] = {}
        self._all, self._own = held, 0

    def __exit__(self, *raised: object) -> None:
        self._hold(-self._own)

    def _hold(self, count: int) -> None:
        self._own += count
        self._all.count += count

    def add(self, index: int, item: Item) -> None:
        """Take the next item of the answer with this index.

        Raises:
            BusyError: more scores are held than there may be.
        """
        one = self._found.setdefault(index, _Growing())
        if isinstance(item, Scored):
            one.tokens = one.tokens or []
            one.tokens += item.tokens
            self._hold(_count(item.tokens))
            if self._all.count > MOST_SCORES:
                message = f"answers that wait to be sent have {MOST_SCORES} probabilities already"
                raise BusyError(f"{message}: ask for fewer, or for a stream")
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
        return None if one is None else one.tokens

    def sent(self, index: int) -> None:
        """Forget all scores so far, because they were sent."""
        one = self._found[index]
        if one.tokens:
            self._hold(-_count(one.tokens))
            one.tokens = []

    @property
    def choices(self) -> list[Choice]:
        """The whole answers."""
        whole = []
        for _, one in sorted(self._found.items()):
            assert one.stats is not None, "an answer ends with its statistics"
            whole.append(Choice(one.parts, one.tokens, one.stats))
        return whole


def _count(tokens: Sequence[TokenScore]) -> int:
    return sum(1 + len(one.top) for one in tokens)


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
