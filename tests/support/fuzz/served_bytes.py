"""A server without a socket or a model: bytes in, bytes out, by the connection and the application that serve uses."""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from quantkit.chat_template.answer_reader import Part, Text, Thought
from quantkit.chat_template.call_reader import Call
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.grammar_check import require_size
from quantkit.run.settings import Settings
from quantkit.serve import completions
from quantkit.serve.app import make_app
from quantkit.serve.completions import Served
from quantkit.serve.connection import Connection
from quantkit.serve.guard import Access
from quantkit.serve.metrics import Totals
from quantkit.serve.page.markdown import render_markdown
from quantkit.serve.turns import Load
from tests.support.fuzz.readers.answers import FORMS
from tests.support.patience import PATIENCE

N_VOCAB = 300
_SAID: Sequence[Part] = (Thought("hm"), Text("a"), Text("二"), Call("look", "{}"))
_STATS = GenerationStats(10, 0.1, 3, 0.1, stopped=True)
_TURNS = 10


@dataclass
class Answered:
    """What a connection got.

    Attributes:
        written: its bytes.
        statuses: those that the application answered with.
        errors: what it or the server said of a failure.
    """

    written: bytearray = field(default_factory=bytearray)
    statuses: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class _Answers:
    """In the place of :class:`quantkit.serve.answering.Answers`: the same answer to everything."""

    def __init__(self) -> None:
        engine = SimpleNamespace(
            n_vocab=N_VOCAB, gap_tokens=None, tokenize_prompt=lambda text: list(text.encode()), piece=_piece
        )
        self.model = SimpleNamespace(
            answers=FORMS["Qwen-Qwen3-0.6B"], engine=engine, n_ctx=512, path=None, text_tokens=engine.tokenize_prompt
        )
        self.totals, self.load = Totals(), Load(0, 0, 1, 0, 0, 0, 0)

    def has_room(self, request: Any) -> bool:
        return True

    async def stream(self, request: Any, begun: Callable[[], object] = bool) -> AsyncGenerator[Part | GenerationStats]:
        begun()
        for part in _SAID if hasattr(request, "messages") else [Text("a")]:
            yield part
            await asyncio.sleep(0)
        yield _STATS


def _piece(token: int, *, special: bool) -> bytes:
    return bytes([token % 256])


class _Transport(asyncio.Transport):
    def __init__(self, answered: Answered) -> None:
        super().__init__({"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 8080)})
        self._answered, self.closed = answered, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._answered.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def answer(pieces: Sequence[bytes]) -> Answered:
    """What a connection gets that sends these, waits, and leaves."""
    return _loop().run_until_complete(_answer(pieces))


async def _answer(pieces: Sequence[bytes]) -> Answered:
    answered = Answered()
    model: Any = _Answers()
    renderer: Any = SimpleNamespace(nodes=render_markdown)
    served = Served("m", model, "be brief", Settings(sampling={}), lambda line: None, renderer=renderer)
    app = make_app(served, Access())

    async def seen(scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                answered.statuses.append(message["status"])
            await send(message)

        await app(scope, receive, told)

    config = uvicorn.Config(seen, log_config=None, lifespan="off", ws="none", server_header=False, http=Connection)
    config.load()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: answered.errors.append(str(context)))
    transport, state = _Transport(answered), ServerState()
    handler = logging.Handler()
    handler.emit = lambda record: answered.errors.append(record.getMessage())  # type: ignore[method-assign]
    handler.setLevel(logging.ERROR)
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(handler)
    try:
        with mock.patch.object(completions, "check_grammar", lambda text, path: require_size(text)):
            connection = Connection(config, state, {}, loop)
            connection.connection_made(transport)
            for piece in pieces:
                connection.data_received(piece)
                await asyncio.sleep(0)
            connection.eof_received()
            for _ in range(_TURNS):  # a request whose body does not end waits until its client has left
                await asyncio.sleep(0.001 if state.tasks else 0)
            connection.connection_lost(None)
            if state.tasks:
                await asyncio.wait(state.tasks, timeout=PATIENCE)
            assert not state.tasks, "a request that does not end"
    finally:
        logger.removeHandler(handler)
    return answered
