"""Which sequences of a context hold the tokens of past answers, and what a new prompt can take over from them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

MOST_PARALLEL = 64
"""Answers at a time; a step has room for a token of each."""


@dataclass(frozen=True)
class Kept:
    """A sequence that no answer uses any more.

    Attributes:
        number: llama.cpp's number of it.
        tokens: what has been evaluated in it.
        kind: what it was evaluated with; only a prompt of the same kind can take it over.
    """

    number: int
    tokens: Sequence[int]
    kind: Hashable = None


class PromptCache:
    """The sequence numbers of a context: in use, kept, or free. It only keeps accounts, and calls nothing."""

    def __init__(self, numbers: int) -> None:
        """Begin with so many free numbers, from 0."""
        self._free = list(range(numbers))
        self._kept: list[Kept] = []  # the least recently used first

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The kept sequences, the least recently used first."""
        return tuple(self._kept)

    def longest(self, prompt: Sequence[int], kind: Hashable = None, *, whole: bool = False) -> tuple[Kept | None, int]:
        """The kept sequence that has most tokens in common with the beginning of *prompt*, and how many.

        Args:
            prompt: tokens.
            kind: see :class:`Kept`.
            whole: whether a sequence counts only if the prompt begins with all of it.
        """
        best, most = None, 0
        for one in reversed(self._kept):
            common = common_length(one.tokens, prompt) if one.kind == kind else 0
            if common > most and not (whole and common < len(one.tokens)):
                best, most = one, common
        return best, most

    def take(self, kept: Kept) -> int:
        """Use the number of a kept sequence."""
        self._kept.remove(kept)
        return kept.number

    def take_free(self) -> int | None:
        """Use a free number, the lowest; None if there is none."""
        return self._free.pop(0) if self._free else None

    def oldest(self, but: Kept | None = None) -> Kept | None:
        """The kept sequence that was not used for the longest time, other than *but*; None if there is none."""
        return next((one for one in self._kept if one is not but), None)

    def has_other(self, kept: Kept) -> bool:
        """Whether a number is free, or can be by dropping a kept sequence other than *kept*."""
        return bool(self._free) or self.oldest(kept) is not None

    def touch(self, kept: Kept) -> None:
        """Count a kept sequence as used now."""
        self._kept.remove(kept)
        self._kept.append(kept)

    def release(self, number: int) -> None:
        """Count a number in use as free."""
        self._free = sorted([*self._free, number])

    def keep(self, new: Kept, *, whole: bool = False) -> list[int]:
        """Keep a sequence, whose number is in use so far.

        Args:
            new: the sequence.
            whole: as in :meth:`longest`; shorter ones have a use of their own then.

        Returns:
            Numbers of sequences that say nothing beside others. They are free now.
        """
        needless = []
        for one in (one for one in self._kept if one.kind == new.kind):
            size = min(len(one.tokens), len(new.tokens))
            if (whole and len(one.tokens) != len(new.tokens)) or one.tokens[:size] != new.tokens[:size]:
                continue
            if len(one.tokens) > len(new.tokens):
                self.touch(one)
                self.release(new.number)
                return [new.number]
            needless.append(one)
        for one in needless:
            self.release(self.take(one))
        self._kept.append(new)
        return [one.number for one in needless]


def sequences(parallel: int) -> int:
    """How many sequences a context has for so many answers at a time: as many again are kept for later prompts.

    A context for one answer has one, as llama.cpp's own by default: its answers do not depend on anything kept.
    """
    return 1 if parallel == 1 else 2 * parallel


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two lists have in common at their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
