"""One answer of the model to one request, in the order in which it is sent."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.chat_template.answer_reader import AnswerReader, Part, Text
from quantkit.run.answer import Answer, DividedAnswer
from quantkit.run.asking import prepare_answer
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.held_answer import answer_grammar
from quantkit.run.logprobs import Scores, TokenScore
from quantkit.run.session import ChatModel
from quantkit.run.text_prompt import continued_tokens
from quantkit.serve.request import ChatRequest
from quantkit.serve.text_request import TextPrompt

if TYPE_CHECKING:
    from quantkit.run.lanes import Lane, Lanes

_PLAIN = AnswerFormat()

Asked = ChatRequest | TextPrompt


@dataclass(frozen=True)
class Scored:
    """The next tokens of an answer, and how likely they were."""

    tokens: tuple[TokenScore, ...]


@dataclass(frozen=True)
class Begun:
    """The prompt has been evaluated; nothing is said yet."""


@dataclass(frozen=True)
class SpokenAnswer:
    """An answer, each part of which comes behind the scores of its tokens if these are asked for.

    Attributes:
        answer: to a conversation, or a text's plain continuation.
        scores: of its tokens.
        echo: what is said first.
    """

    answer: DividedAnswer | Answer
    scores: Scores | None = None
    echo: str = ""

    @property
    def stats(self) -> GenerationStats | None:
        """As :attr:`Answer.stats`."""
        return self.answer.stats

    def steps(self, lanes: Lanes) -> Generator[Lane | Part | Scored | Begun]:
        """As :meth:`Answer.steps`."""
        from quantkit.run.lanes import Lane

        if self.echo:
            yield Text(self.echo)
        begun = False
        with closing(self.answer.steps(lanes)) as steps:
            for step in steps:
                if isinstance(step, Lane):
                    yield step
                    if not begun and not step.pending:
                        begun = True
                        yield Begun()
                    continue
                if self.scores is not None and (found := self.scores.take()):
                    yield Scored(found)
                yield Text(step) if isinstance(step, str) else step
        if self.scores is not None:
            yield Scored(self.scores.take())


def prepare_spoken(model: ChatModel, request: Asked, go_on: Callable[[], bool]) -> SpokenAnswer:
    """Prepare the answer to a request; nothing is evaluated.

    Args:
        model: the model.
        request: what is asked.
        go_on: called between steps; False ends the answer there.

    Raises:
        QuantkitError: as :func:`~quantkit.run.asking.prepare_answer` and
            :func:`~quantkit.run.text_prompt.continued_tokens`.
    """
    how, scores = request.settings, None
    if request.logprobs is not None:
        scores = Scores(request.logprobs, lambda token: model.engine.piece(token, special=True))
    if isinstance(request, ChatRequest):
        return SpokenAnswer(
            prepare_answer(
                model,
                request.messages,
                how,
                tools=request.tools,
                go_on=go_on,
                reuse=request.reuse,
                scores=scores,
                continues=request.continues,
            ),
            scores,
        )
    answer = model.prepare_tokens(
        continued_tokens(model, request.prompt, request.suffix, go_on),
        max_tokens=model.n_ctx if how.max_tokens is None else how.max_tokens,
        stops=how.stops,
        go_on=go_on,
        reuse=request.reuse,
        grammar="" if how.held is None else answer_grammar(how.held, _PLAIN, AnswerReader(_PLAIN)),
        bias=how.bias,
        loras=how.loras,
        scores=scores,
        **how.sampling,
    )
    return SpokenAnswer(answer, scores, _text(model, request.prompt) if request.echo else "")


def _text(model: ChatModel, prompt: str | tuple[int, ...]) -> str:
    if isinstance(prompt, str):
        return prompt
    return b"".join(model.engine.piece(token, special=True) for token in prompt).decode(errors="replace")
