"""``POST /v1/chat/completions``: an answer, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from quantkit.chat_template.answer_reader import Part
from quantkit.chat_template.call_reader import Call
from quantkit.errors import QuantkitError
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.settings import Settings
from quantkit.serve.answering import Answers
from quantkit.serve.body import Bodies
from quantkit.serve.page.rendering import Renderer
from quantkit.serve.refusals import refused
from quantkit.serve.reply import DONE, Reply, event, refusal
from quantkit.serve.request import ChatRequest, read_request

_LONG = 2**16  # bytes of a request that is not read in the event loop, where others wait

# Limits for unknown parameters in the log, because clients can invent any number of them.
_MOST_NAMES, _LONGEST_NAME = 100, 64

Items = AsyncIterator[Part | GenerationStats]


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
        shared: whether clients that do not know each other use it.
        since: the start time, in seconds since 1970.
    """

    name: str
    answers: Answers
    system: str | None
    settings: Settings
    note: Callable[[str], None]
    bodies: Bodies = field(default_factory=Bodies)
    renderer: Renderer = field(default_factory=Renderer)
    shared: bool = False
    since: int = field(default_factory=lambda: int(time.time()))


class ChatCompletions:
    """The endpoint, as an ASGI application. An answer ends when its client disconnects."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._noted: set[str] = set()
        self._reading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            async with self._served.bodies.read(Request(scope, receive)) as body:
                await self._answer(await self._read(body), scope, receive, send)
        except ClientDisconnect:
            return
        except QuantkitError as error:
            await refused(error)(scope, receive, send)

    async def _answer(self, asked: ChatRequest, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_when_gone, receive, tasks.cancel_scope.cancel)
            async with aclosing(self._served.answers.stream(asked)) as items:
                reply = Reply(self._served.name, shared=self._served.shared)
                if asked.stream:
                    await _send_stream(asked, reply, items, scope, receive, send)
                else:
                    await (await _whole(reply, items))(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _read(self, body: bytes) -> ChatRequest:
        if len(body) < _LONG:
            return self._parse(body)
        async with self._reading:
            return await asyncio.to_thread(self._parse, body)

    def _parse(self, body: bytes) -> ChatRequest:
        served = self._served
        return read_request(
            body,
            system=served.system,
            settings=served.settings,
            note=self._note_unknown,
            form=served.answers.model.answers,
        )

    def _note_unknown(self, parameter: str) -> None:
        parameter = parameter[:_LONGEST_NAME]
        if parameter not in self._noted and len(self._noted) < _MOST_NAMES:
            self._noted.add(parameter)
            self._served.note(f"ignored request parameter {parameter!r}, which has no effect")


async def _when_gone(receive: Receive, leave: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    leave()


async def _whole(reply: Reply, items: Items) -> Response:
    parts: list[Part] = []
    try:
        async for item in items:
            if isinstance(item, GenerationStats):
                return JSONResponse(reply.whole(parts, item))
            parts.append(item)
    except QuantkitError as error:
        return refused(error)
    raise AssertionError("an answer ends with its statistics")


async def _send_stream(
    asked: ChatRequest, reply: Reply, items: Items, scope: Scope, receive: Receive, send: Send
) -> None:
    try:
        # Before anything has been sent, an error can still have its own status.
        first = await anext(items)
    except QuantkitError as error:
        await refused(error)(scope, receive, send)
        return
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for data in _events(asked, reply, first, items):
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _events(
    asked: ChatRequest, reply: Reply, first: Part | GenerationStats, items: Items
) -> AsyncIterator[bytes]:
    yield event(reply.first())
    calls = 0
    try:
        item = first
        while not isinstance(item, GenerationStats):
            yield event(reply.piece(item, calls))
            calls += isinstance(item, Call)
            item = await anext(items)
    except QuantkitError as error:
        yield event(refusal(error)[1])
        return
    yield event(reply.last(item, called=bool(calls)))
    if asked.include_usage:
        yield event(reply.usage(item))
    yield DONE
