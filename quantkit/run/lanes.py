"""A context of llama.cpp in which several answers advance together.

Each answer has a lane: a sequence of tokens that sees no other's. One call of llama.cpp evaluates the next tokens of
all lanes, so that the weights are read once for all of them.

What past answers left in the context is taken over by prompts that begin with it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.run.inference import Token, decode
from quantkit.run.prompt_cache import Kept, PromptCache, common_length, sequences

# A step of the kit model with 64 tokens takes as long as 27 answers' tokens, one with 16 as 9; a prompt is evaluated a
# fifth more slowly with 16.
_SHORTER = 4
_NO_ROOM = 1  # llama_decode's status if the cache is full; nothing has changed then


class Lane:
    """The tokens of one answer.

    Attributes:
        lanes: the context.
        number: llama.cpp's number of the sequence.
        kind: scales of the LoRA files that it is computed with. Lanes of different kinds do not share a step.
        evaluated: the tokens so far.
        pending: those to be evaluated next.
        reused: how many were in the context before.
        row: where the logits behind the last token are in the last step.
    """

    def __init__(self, lanes: Lanes, number: int, reused: list[int], pending: list[int], kind: Hashable) -> None:
        self.lanes, self.number, self.kind = lanes, number, kind
        self.evaluated, self.pending, self.reused = reused, pending, len(reused)
        self.row = -1


class Lanes:
    """llama.cpp's context with its lanes. Not thread-safe.

    Attributes:
        handle: llama.cpp's.
        parallel: how many lanes there can be at a time.
        latest: the tokens of the lane that was evaluated last.
    """

    def __init__(
        self,
        handle: Any,
        *,
        parallel: int,
        room: int,
        whole: bool,
        n_vocab: int,
        use: Callable[[Hashable], object] = bool,
    ) -> None:
        """Take a context.

        Args:
            handle: llama.cpp's.
            parallel: how many lanes; it has as many sequences as :func:`~quantkit.run.prompt_cache.sequences` says.
            room: tokens of a step.
            whole: whether its memory cannot go back to an earlier token, as that of recurrent models.
            n_vocab: tokens in the vocabulary.
            use: called with a kind before the first step of it, and before each that follows one of another kind.
        """
        self._use, self._used = use, object()
        self.handle, self.parallel = handle, parallel
        self._room, self._whole, self._n_vocab = room, whole, n_vocab
        self._memory = llama_cpp.llama_get_memory(handle)
        self._cache = PromptCache(sequences(parallel))
        self._open: list[Lane] = []
        self.latest: list[int] = []

    @property
    def kept(self) -> tuple[Kept, ...]:
        """What past answers left, the least recently used first."""
        return self._cache.kept

    def begin(self, prompt: Sequence[int], *, reuse: bool = True, kind: Hashable = None) -> Lane:
        """Open a lane, for whose tokens there must be room.

        Args:
            prompt: the tokens to evaluate first.
            reuse: whether it takes over what past answers left.
            kind: what it is evaluated with, see :class:`Lane`.
        """
        # At least one token must be evaluated, for its logits.
        wanted = prompt[:-1] if reuse else ()
        found, common = self._cache.longest(wanted, kind, whole=self._whole)
        beside, shared = self._longest_beside(wanted, kind)
        if shared > common:
            number = self._new_number()
            llama_cpp.llama_memory_seq_cp(self._memory, beside, number, 0, shared)
            common = shared
        elif found is None:
            number = self._new_number()
            if self.parallel == 1:
                # The first token goes where it went in a new context, and so do its sums.
                llama_cpp.llama_memory_clear(self._memory, False)
        elif common == len(found.tokens) or not self._cache.has_other(found):
            number, common = self._cut(found, common)
        else:
            number = self._new_number(but=found)
            llama_cpp.llama_memory_seq_cp(self._memory, found.number, number, 0, common)
            self._cache.touch(found)
        lane = Lane(self, number, list(prompt[:common]), list(prompt[common:]), kind)
        self._open.append(lane)
        self.latest = lane.evaluated
        return lane

    def step(self, lanes: Sequence[Lane]) -> None:
        """Evaluate the next tokens of *lanes*, all of one kind and with something pending.

        Raises:
            QuantkitError: llama.cpp failed. The lanes are empty then.
        """
        counts = shares([len(lane.pending) for lane in lanes], self._room)
        tokens: list[Token] = []
        for lane, count in zip(lanes, counts, strict=True):
            place, ends = len(lane.evaluated), count == len(lane.pending)
            tokens += [
                Token(token, place + at, lane.number, ends and at == count - 1)
                for at, token in enumerate(lane.pending[:count])
            ]
            lane.row = len(tokens) - 1
        if lanes[0].kind != self._used:
            self._use(lanes[0].kind)
            self._used = lanes[0].kind
        status, reason = decode(self.handle, tokens)
        while status == _NO_ROOM and (oldest := self._cache.oldest()) is not None:
            self._drop(oldest)
            status, reason = decode(self.handle, tokens)
        with captured_log():
            llama_cpp.llama_synchronize(self.handle)
        if status != 0:
            place = len(lanes[0].evaluated)
            for lane in lanes:
                self._clear(lane.number)
                lane.evaluated.clear()
            raise QuantkitError(f"llama.cpp cannot evaluate the tokens at position {place} (status {status}): {reason}")
        for lane, count in zip(lanes, counts, strict=True):
            lane.evaluated += lane.pending[:count]
            del lane.pending[:count]
            self.latest = lane.evaluated

    def end(self, lane: Lane) -> None:
        """Close a lane; what has been evaluated is kept for prompts that begin with it."""
        self._open.remove(lane)
        if lane.evaluated:
            for number in self._cache.keep(Kept(lane.number, lane.evaluated, lane.kind), whole=self._whole):
                self._clear(number)
        else:
            self._cache.release(lane.number)

    def logits(self, row: int = -1) -> npt.NDArray[np.float32]:
        """The logits of a row of the last step, the last by default: float32, shape [n_vocab]; a copy."""
        pointer = llama_cpp.llama_get_logits_ith(self.handle, row)
        logits: npt.NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self._n_vocab,)).copy()
        return logits

    def _longest_beside(self, prompt: Sequence[int], kind: Hashable) -> tuple[int, int]:
        """The number of the open lane that has most tokens in common with the beginning of *prompt*, and how many."""
        if self._whole:
            return -1, 0
        lengths = ((lane.number, common_length(lane.evaluated, prompt)) for lane in self._open if lane.kind == kind)
        return max(lengths, key=lambda one: one[1], default=(-1, 0))

    def _new_number(self, but: Kept | None = None) -> int:
        """A number for a sequence, which is empty; that of the oldest kept one other than *but* if none is free."""
        number = self._cache.take_free()
        if number is None:
            oldest = self._cache.oldest(but)
            assert oldest is not None, "more lanes than the context was opened for"
            self._drop(oldest)
            number = self._cache.take_free()
            assert number is not None
        return number

    def _cut(self, kept: Kept, common: int) -> tuple[int, int]:
        """Use a kept sequence up to a token; returns its number, and 0 if the memory cannot go back to that token."""
        number = self._cache.take(kept)
        if common < len(kept.tokens):
            with captured_log():
                if not llama_cpp.llama_memory_seq_rm(self._memory, number, common, -1):
                    self._clear(number)
                    common = 0
        return number, common

    def _drop(self, kept: Kept) -> None:
        self._cache.release(self._cache.take(kept))
        self._clear(kept.number)

    def _clear(self, number: int) -> None:
        if self.parallel == 1:
            llama_cpp.llama_memory_clear(self._memory, False)
        else:
            llama_cpp.llama_memory_seq_rm(self._memory, number, -1, -1)


def shares(pending: Sequence[int], room: int) -> list[int]:
    """How many tokens of each lane a step takes: the same number of each, except of those that have fewer.

    So a long prompt does not wait for a longer one, and an answer, which has one token at a time, for neither. Beside
    an answer a step is short, so that it does not wait long for its next token.

    Args:
        pending: how many tokens each has, at least one.
        room: how many a step takes; at least one of each.
    """
    left = max(len(pending), room // _SHORTER) if min(pending) == 1 else room
    taken = [0] * len(pending)
    for place, lane in enumerate(sorted(range(len(pending)), key=pending.__getitem__)):
        taken[lane] = min(pending[lane], left // (len(pending) - place))
        left -= taken[lane]
    return taken
