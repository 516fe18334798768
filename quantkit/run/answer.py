"""One answer, step by step, so that several can advance in one context.

The steps of an answer are its pieces, and between them the :class:`~quantkit.run.lanes.Lane` whose pending tokens have
to be evaluated before it goes on. Whoever reads them decides with which other lanes that happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Required, TypeVar, Unpack

from quantkit.chat_template.answer_reader import AnswerReader, Part
from quantkit.run.generation import Generation
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.interrupts import always
from quantkit.run.options import Sampling, SamplingOptions
from quantkit.run.sampler import Sampler
from quantkit.run.stop_strings import StopTexts

if TYPE_CHECKING:
    from quantkit.run.engine import Engine
    from quantkit.run.lanes import Lane, Lanes
    from quantkit.run.logprobs import Scores

Piece = TypeVar("Piece")


class PreparedOptions(SamplingOptions, total=False):
    """The keyword arguments of :func:`prepared`.

    Attributes:
        max_tokens: the longest answer.
        stops: stop sequences, in addition to the end-of-generation tokens; they are not part of the answer.
        go_on: called between steps, also while the prompt is evaluated; False ends the answer there.
        shown: control tokens whose text is part of the answer.
        reuse: False evaluates the whole prompt, as a seed does.
        grammar: GBNF that the answer is held to, "" for none.
        bias: token -> what is added to its logit before anything else.
        scores: is told how likely each token was.
        loras: scale of each LoRA file that was loaded; None for the engine's.
    """

    max_tokens: Required[int]
    stops: Sequence[str]
    go_on: Callable[[], bool]
    shown: Container[int]
    reuse: bool
    grammar: str
    bias: Mapping[int, float]
    scores: Scores | None
    loras: tuple[float, ...] | None


class AnswerOptions(PreparedOptions, total=False):
    """The keyword arguments of :meth:`quantkit.run.session.ChatModel.stream`.

    Attributes:
        told: further variables of the chat template.
    """

    told: Mapping[str, Any] | None


def is_repeatable(seed: int | None, reuse: bool) -> bool:
    """Whether nothing that came before, or happens beside an answer, may change its logits."""
    return seed is not None or not reuse


@dataclass
class Answer:
    """An answer to a prompt that has been tokenized.

    Attributes:
        engine: the model.
        prompt: tokens, fewer than the context holds.
        sampling: how tokens are sampled.
        max_tokens, stops, go_on, shown, reuse, grammar, bias, scores, loras: see :class:`PreparedOptions`.
        stats: statistics, when the steps have ended, also by closing them.
    """

    engine: Engine
    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    stops: Sequence[str] = ()
    go_on: Callable[[], bool] = always
    shown: Container[int] = ()
    reuse: bool = True
    grammar: str = ""
    bias: Mapping[int, float] = field(default_factory=dict)
    scores: Scores | None = None
    loras: tuple[float, ...] = ()
    stats: GenerationStats | None = field(default=None, init=False)

    def steps(self, lanes: Lanes) -> Generator[Lane | str]:
        """Answer in a lane of a context.

        Raises:
            GrammarError: the grammar is not valid, or allows no token.
        """
        started, n_ctx = time.perf_counter(), self.engine.n_ctx
        reuse = not is_repeatable(self.sampling.seed, self.reuse)
        lane = lanes.begin(self.prompt, reuse=reuse, kind=self.loras)
        run = Generation(self.engine, lane, StopTexts(self.stops), self.shown, self.scores)
        prompt_seconds = 0.0
        try:
            while lane.pending and self.go_on():
                yield lane
            prompt_seconds = time.perf_counter() - started
            recent, vocabulary = self.prompt[-n_ctx:], self.engine.vocabulary
            sampler = Sampler(
                self.sampling, vocabulary, n_ctx=n_ctx, recent=recent, grammar=self.grammar, bias=self.bias
            )
            with sampler:
                yield from run.steps(sampler, self.max_tokens, self.go_on)
        finally:
            lanes.end(lane)
            self.stats = run.stats(len(self.prompt), prompt_seconds, lane.reused)


def prepared(
    engine: Engine,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    stops: Sequence[str] = (),
    go_on: Callable[[], bool] = always,
    shown: Container[int] = (),
    reuse: bool = True,
    grammar: str = "",
    bias: Mapping[int, float] | None = None,
    scores: Scores | None = None,
    loras: tuple[float, ...] | None = None,
    **sampling: Unpack[SamplingOptions],
) -> Answer:
    """The answer to a prompt of a model, see :class:`PreparedOptions`."""
    return Answer(
        *(engine, prompt, Sampling(**sampling), max_tokens, stops, go_on, shown, reuse, grammar, bias or {}, scores),
        loras=engine.scales if loras is None else loras,
    )


@dataclass(frozen=True)
class DividedAnswer:
    """An answer whose pieces are thoughts, text and calls."""

    answer: Answer
    reader: AnswerReader

    @property
    def stats(self) -> GenerationStats | None:
        """As :attr:`Answer.stats`."""
        return self.answer.stats

    def steps(self, lanes: Lanes) -> Generator[Lane | Part]:
        """As :meth:`Answer.steps`."""
        with closing(self.answer.steps(lanes)) as steps:
            for step in steps:
                if isinstance(step, str):
                    yield from self.reader.push(step)
                else:
                    yield step
        yield from self.reader.finish()


def alone(steps: Generator[Lane | Piece]) -> Iterator[Piece]:
    """The pieces of an answer that shares its context with no other."""
    from quantkit.run.lanes import Lane

    with closing(steps):
        for step in steps:
            if isinstance(step, Lane):
                step.lanes.step([step])
            else:
                yield step
