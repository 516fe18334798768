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
    from quantkit.run.logprobs import Scores


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

    def __init__(
        self, engine: Engine, lane: Lane, stops: StopTexts, shown: Container[int] = (), scores: Scores | None = None
    ) -> None:
        """Prepare; nothing is generated yet.

        Args:
            engine: the model.
            lane: what has evaluated the prompt.
            stops: the stop sequences.
            shown: control tokens whose text is part of the answer.
            scores: is told how likely each token was, if anybody wants to know.
        """
        self._engine, self._lane, self._scores = engine, lane, scores
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
            decoded = decoder.decode(self._engine.piece(token, special=token in self._shown))
            if text := self._passed(decoded):
                yield text
            self.stopped = self._stops.found
        self.limit_reached = self.generated >= max_tokens and not self.stopped
        if not self._stops.found:
            rest = self._passed(decoder.decode(b"", final=True)) + self._stops.flush()
            if self._scores is not None and not self._stops.found:
                self._scores.end()
            if rest:
                yield rest

    def _passed(self, decoded: str) -> str:
        """What the stop sequences let through of the next text."""
        text = self._stops.push(decoded)
        if self._scores is not None:
            self._scores.decode(decoded)
            self._scores.show(text)
        return text

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
        if self._scores is not None:
            self._scores.add(token, self._lane.lanes.logits(self._lane.row))
        return token
