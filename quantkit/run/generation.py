"""Generates one answer token by token, and records why it ended."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING

from quantkit.run.generation_stats import GenerationStats
from quantkit.run.sampler import Sampler
from quantkit.run.stop_strings import StopTexts

if TYPE_CHECKING:
    from quantkit.run.engine import Engine
    from quantkit.run.lanes import Lane


class Generation:
    """One answer, generated after a prompt that has been evaluated.

    Attributes:
        generated: tokens so far, without the one that ended it.
        seconds: time to sample and evaluate them.
        stopped: the model ended it, with an end-of-generation token or a stop sequence.
        context_full: the context had no room for more.
        limit_reached: it reached the maximum number of tokens.
        stop_token: the end-of-generation token, None if there was none.
    """

    def __init__(self, engine: Engine, lane: Lane, stops: StopTexts, shown: Container[int] = ()) -> None:
        """Prepare; nothing is generated yet. *shown* are the control tokens whose text is part of the answer."""
        self._engine, self._lane = engine, lane
        self._shown = shown
        self._stops = stops
        self.generated = 0
        self.seconds = 0.0
        self.stopped = False
        self.context_full = False
        self.limit_reached = False
        self.stop_token: int | None = None

    def steps(self, sampler: Sampler, max_tokens: int, go_on: Callable[[], bool]) -> Iterator[Lane | str]:
        """Generate the answer and yield its text in whole characters, and its lane when that has to be evaluated.

        Args:
            sampler: chooses the tokens.
            max_tokens: the maximum number of tokens.
            go_on: called before each token; False ends the answer there.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while self.generated < max_tokens and not self.stopped and go_on():
            if len(self._lane.evaluated) >= self._engine.n_ctx:
                self.context_full = True
                break
            started = time.perf_counter()
            try:
                if self._lane.pending:
                    yield self._lane
                token = self._next(sampler)
            finally:
                self.seconds += time.perf_counter() - started
            if token is None:
                break
            # Evaluated only when the next token is needed, so the last one never is.
            self._lane.pending.append(token)
            if text := self._stops.push(decoder.decode(self._engine.piece(token, special=token in self._shown))):
                yield text
            self.stopped = self._stops.found
        self.limit_reached = self.generated >= max_tokens and not self.stopped
        if not self._stops.found and (rest := self._stops.push(decoder.decode(b"", final=True)) + self._stops.flush()):
            yield rest

    def stats(self, prompt_tokens: int, prompt_seconds: float, reused_tokens: int) -> GenerationStats:
        """The statistics of the answer so far, with those of its prompt."""
        return GenerationStats(
            prompt_tokens=prompt_tokens,
            prompt_seconds=prompt_seconds,
            generated_tokens=self.generated,
            generation_seconds=self.seconds,
            stopped=self.stopped,
            reused_tokens=reused_tokens,
            context_full=self.context_full,
            stop_token=self.stop_token,
            limit_reached=self.limit_reached,
        )

    def _next(self, sampler: Sampler) -> int | None:
        token = sampler.sample(self._lane.lanes.handle, self._lane.row)
        if self._engine.is_eog(token):
            self.stopped, self.stop_token = True, token
            return None
        self.generated += 1
        return token
