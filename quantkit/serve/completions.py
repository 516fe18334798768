"""``POST /v1/chat/completions`` and ``/v1/completions``: answers, whole or as a stream of events."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quantkit.chat_template.answer_reader import Text
from quantkit.errors import QuantkitError
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.grammar_check import check_grammar
from quantkit.run.options import GrammarError
from quantkit.run.settings import Settings
from quantkit.serve.adapters import Adapters
from quantkit.serve.answering import Answers
from quantkit.serve.body import Bodies
from quantkit.serve.choices import Collector, HeldScores, Items, together
from quantkit.serve.errors import RequestError
from quantkit.serve.last_words import LastWords
from quantkit.serve.page.rendering import Renderer
from quantkit.serve.refusals import refusal, refused
from quantkit.serve.reply import DONE, ChatReply, Choice, Reply, TextReply, event
from quantkit.serve.request import ChatRequest, read_request
from quantkit.serve.several import all_answers
from quantkit.serve.speaking import Scored
from quantkit.serve.text_request import TextRequest, read_text_request
from quantkit.serve.whole_response import WholeResponse
from quantkit.serve.worker import Worker

if TYPE_CHECKING:
    from quantkit.run.embeddings import Embedder

_LONG = 2**16  # bytes of a request that is not read in the event loop, where others wait
_MANY = 128  # tokens with scores that are not written there

# Limits for unknown parameters in the log, because clients can invent any number of them.
_MOST_NAMES, _LONGEST_NAME = 100, 64


@dataclass(frozen=True)
class Served:
    """The model being served.

    Attributes:
        name: the model's name.
        answers: gives the answers.
        system: the system prompt for requests without one.
        settings: the settings for what a request leaves out.
        note: writes a line to the log.
        bodies: the bodies of requests.
        renderer: renders Markdown for the page.
        embedder: gives embeddings, None for none.
        shared: whether clients that do not know each other use it.
        scores: how many probabilities are held for answers that were not sent yet.
        adapters: LoRA files that a request can choose.
        words: where it is written what is being answered.
        restarts: how often the server was started again after its process had been killed or had crashed.
        since: the start time, in seconds since 1970.
    """

    name: str
    answers: Answers
    system: str | None
    settings: Settings
    note: Callable[[str], None]
    bodies: Bodies = field(default_factory=Bodies)
    renderer: Renderer = field(default_factory=Renderer)
    embedder: Embedder | None = None
    shared: bool = False
    scores: HeldScores = field(default_factory=HeldScores)
    adapters: Adapters | None = None
    words: LastWords = field(default_factory=LastWords)
    restarts: int = 0
    since: int = field(default_factory=lambda: int(time.time()))


class Completions(ABC):
    """An endpoint that answers, as an ASGI application. An answer ends when its client disconnects."""

    reply: ClassVar[type[Reply]]
    prompt: ClassVar[str]

    def __init__(self, served: Served) -> None:
        self._served = served
        self._noted: set[str] = set()
        self._reader, self._writer = Worker(), Worker()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            async with self._served.bodies.read(Request(scope, receive)) as body:
                await self._answer(await self._read(body), scope, receive, send)
        except ClientDisconnect:
            return
        except QuantkitError as error:
            await refused(error, self.prompt)(scope, receive, send)

    async def _answer(self, asked: ChatRequest | TextRequest, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_when_gone, receive, tasks.cancel_scope.cancel)
            reply = self.reply(asked.model or self._served.name, shared=self._served.shared)
            items = all_answers(self._served.answers, asked.each())
            with self._served.words.answering(reply.id):
                async with aclosing(items):
                    if asked.stream:
                        await self._send_stream(asked, reply, items, scope, receive, send)
                    else:
                        await (await self._whole(asked, reply, items))(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _read(self, body: bytes) -> ChatRequest | TextRequest:
        if len(body) < _LONG:
            asked = self._parse(body)
        else:
            asked = await self._reader.run(partial(self._parse, body))
        if asked.unchecked:
            await self._reader.run(partial(_check, asked.unchecked, self._served.answers.model.path))
        return asked

    @abstractmethod
    def _parse(self, body: bytes) -> ChatRequest | TextRequest:
        """Read a request."""

    def _note_unknown(self, parameter: str) -> None:
        parameter = parameter[:_LONGEST_NAME]
        if parameter not in self._noted and len(self._noted) < _MOST_NAMES:
            self._noted.add(parameter)
            self._served.note(f"ignored request parameter {parameter!r}, which has no effect")

    async def _whole(self, asked: ChatRequest | TextRequest, reply: Reply, items: Items) -> Response:
        with Collector(self._served.scores) as found:
            try:
                async for index, item in items:
                    found.add(index, item)
            except QuantkitError as error:
                return refused(error, self.prompt)
            return await self._written(asked, reply, found.choices)

    async def _written(
        self, asked: ChatRequest | TextRequest, reply: Reply, choices: Sequence[Choice]
    ) -> WholeResponse:
        """The response with all answers, which have ended."""
        if sum(len(one.tokens or ()) for one in choices) < _MANY:
            return WholeResponse(reply.whole(choices, together(choices, asked.n)))
        return await self._writer.run(lambda: WholeResponse(reply.whole(choices, together(choices, asked.n))))

    async def _send_stream(
        self,
        asked: ChatRequest | TextRequest,
        reply: Reply,
        items: Items,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        async with aclosing(self._events(asked, reply, items)) as events:
            await self._send_events(events, scope, receive, send)

    async def _send_events(self, events: AsyncIterator[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Before anything has been sent, an error can still have its own status.
            first = await anext(events)
        except QuantkitError as error:
            await refused(error, self.prompt)(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        try:
            async for data in events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except QuantkitError as error:
            data = event(refusal(error, self.prompt)[1])
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, asked: ChatRequest | TextRequest, reply: Reply, items: Items) -> AsyncGenerator[bytes]:
        """The events of a stream; nothing before the first answer has begun."""
        begun: set[int] = set()
        with Collector(self._served.scores) as found:
            async for index, item in items:
                if index not in begun and (opening := reply.first(index)):
                    yield event(opening)
                begun.add(index)
                calls, scores = found.calls(index), found.unsent(index)
                found.add(index, item)
                if isinstance(item, GenerationStats):
                    if scores:
                        yield event(reply.piece(index, Text(""), tokens=scores))
                    yield event(reply.last(index, item, called=bool(calls)))
                elif not isinstance(item, Scored):
                    yield event(reply.piece(index, item, calls, scores))
                    found.sent(index)
            if asked.include_usage:
                yield event(reply.usage(together(found.choices, asked.n)))
            yield DONE


class ChatCompletions(Completions):
    """Answers to conversations."""

    reply, prompt = ChatReply, "messages"
    reader: Callable[..., ChatRequest] = staticmethod(read_request)

    def _parse(self, body: bytes) -> ChatRequest:
        served = self._served
        return self.reader(
            body,
            system=served.system,
            settings=served.settings,
            note=self._note_unknown,
            form=served.answers.model.answers,
            n_vocab=served.answers.model.engine.n_vocab,
            adapters=served.adapters,
        )


class TextCompletions(Completions):
    """Continuations of texts."""

    reply, prompt = TextReply, "prompt"

    def _parse(self, body: bytes) -> TextRequest:
        engine = self._served.answers.model.engine
        return read_text_request(
            body,
            settings=self._served.settings,
            note=self._note_unknown,
            n_vocab=engine.n_vocab,
            fills=engine.gap_tokens is not None,
            adapters=self._served.adapters,
        )


def _check(grammar: str, model: Path) -> None:
    try:
        check_grammar(grammar, model)
    except GrammarError as error:
        raise RequestError(str(error), param="grammar") from None


async def _when_gone(receive: Receive, leave: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    leave()
