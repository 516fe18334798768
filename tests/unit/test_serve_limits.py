"""``quantkit serve`` under load and abuse: it goes on, says little, and ends when it is told to."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tiny_gguf import Tiny, write_tiny_gguf

from quantkit.errors import QuantkitError
from quantkit.run.lanes import Lanes
from quantkit.run.options import MOST_SEED
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings
from quantkit.serve.answering import MOST_WAITING, Answers
from quantkit.serve.body import MAX_BODY, MAX_HELD, Bodies
from quantkit.serve.errors import BusyError
from quantkit.serve.log import OncePerKind
from quantkit.serve.request import ChatRequest
from tests.support.patience import PATIENCE, wait_for
from tests.support.served import PATIENT, Server, running_server

IMPATIENT = """
import resource
import quantkit.serve.body, quantkit.serve.connection
quantkit.serve.body.PATIENCE = quantkit.serve.connection.PATIENCE = 3.0
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
"""
STUCK = """
from quantkit.ggml.llama import begin
begin()
import sys, threading
import quantkit.run.lanes, quantkit.serve.server, quantkit.serve.page.rendering
quantkit.serve.server._PATIENCE = 0.2
def stuck(*given):
    print("stuck", file=sys.stderr, flush=True)
    threading.Event().wait()
quantkit.run.lanes.Lanes.step = quantkit.serve.page.rendering.Renderer.nodes = stuck
"""
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for a request for three seconds only, and has few file descriptors."""
    folder = tmp_path_factory.mktemp("impatient")
    path = write_tiny_gguf(folder / "tiny.gguf")
    with running_server(folder / "log.txt", path, "--param", "temperature=0", script=IMPATIENT) as server:
        yield server


def connect(server: Server) -> socket.socket:
    there = urlsplit(server.url)
    return socket.create_connection((str(there.hostname), there.port or 0), timeout=PATIENCE)


def received(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(4096):
        parts.append(part)
    return b"".join(parts)


def test_what_sends_no_whole_request_is_closed(impatient: Server) -> None:
    answers = {
        "": b"",
        "GET / HT": b"",
        HEAD: b"",
        f"{HEAD}\r\n{{": b"HTTP/1.1 408 ",
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\nGET": b"HTTP/1.1 200 ",  # half of a second request
    }
    with ExitStack() as stack:
        opened = {sent: stack.enter_context(closing(connect(impatient))) for sent in answers}
        for sent, connection in opened.items():
            connection.sendall(sent.encode())
        assert {sent: received(connection)[:13] for sent, connection in opened.items()} == answers
    assert impatient.chat("hello").status == 200


def test_silent_connections_do_not_lock_others_out(impatient: Server) -> None:
    """Twice as many as the process may have files."""

    def answered() -> bool:
        try:
            return impatient.chat("hello").status == 200
        except OSError:
            return False

    with ExitStack() as stack:
        for _ in range(512):
            stack.enter_context(closing(connect(impatient)))
        wait_for(answered, impatient.process)
    assert len(impatient.log.read_text(encoding="utf-8")) < 4000


def test_what_is_no_http_is_said_once(impatient: Server) -> None:
    for _ in range(20):
        with closing(connect(impatient)) as connection:
            connection.sendall(b"\x16\x03\x01 not HTTP\r\n\r\n")
            assert received(connection).startswith(b"HTTP/1.1 400 ")
    asked = {"upgrade": "websocket", "connection": "upgrade"}
    assert impatient.request("GET", "/v1/models", headers=asked).status == 200
    log = impatient.log.read_text(encoding="utf-8")
    assert log.count("a client sent something that is not HTTP") == 1
    assert "WebSocket" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_it_while_the_model_is_stuck(tmp_path: Path, number: int, code: int) -> None:
    """In the middle of a step of llama.cpp, which nothing can interrupt, and of what is asked of another process."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with (
        running_server(tmp_path / "log.txt", path, script=STUCK) as server,
        closing(server.connect()) as connection,
        closing(server.connect()) as other,
    ):
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "?"}]}))
        other.request("POST", "/render", json.dumps({"content": "?"}))
        wait_for(lambda: server.log.read_text("utf-8").count("stuck") == 2, server.process)
        ended, log = server.end(number)
        assert ended == code
        assert "Traceback" not in log


def test_a_signal_ends_it_while_a_request_is_half_sent(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    running = running_server(tmp_path / "log.txt", path, script=PATIENT)
    with running as server, closing(connect(server)) as connection:
        connection.sendall(f"{HEAD}\r\n{{".encode())
        assert server.request("GET", "/v1/models").status == 200
        code, log = server.end(signal.SIGTERM)
        assert code == 0
        assert received(connection).startswith(b"HTTP/1.1 503 ")
        assert log.split("stop with Ctrl-C\n")[1] == ""


@pytest.mark.parametrize("parallel", [1, 3])
def test_the_queue_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: int) -> None:
    stepping, going = threading.Event(), threading.Event()

    def waiting(lanes: Lanes, step: Any) -> None:
        stepping.set()
        going.wait(PATIENCE)
        raise QuantkitError("the end of the test")

    monkeypatch.setattr(Lanes, "step", waiting)
    asked = ChatRequest(({"role": "user", "content": "?"},), Settings({}), False, False)

    async def ask(answers: Answers) -> str:
        try:
            async for _ in answers.stream(asked):
                pass
        except QuantkitError as error:
            return type(error).__name__
        return ""

    async def many(answers: Answers) -> list[str]:
        tasks = [asyncio.create_task(ask(answers)) for _ in range(MOST_WAITING + parallel + 3)]
        while not stepping.is_set():
            await asyncio.sleep(0.01)
        assert sum(task.done() for task in tasks) == 3
        assert not answers.is_idle(0)
        going.set()
        return await asyncio.gather(*tasks)

    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        answers = Answers(model, lanes=None if parallel == 1 else model.engine.open_lanes(parallel))
        found = asyncio.run(many(answers))
        assert found.count("BusyError") == 3
        assert found.count("QuantkitError") == MOST_WAITING + parallel, "some are answered, the others wait"
        assert answers.is_idle(PATIENCE)
        assert (answers.load.processing, answers.load.waiting, answers.load.slots) == (0, 0, parallel + (parallel > 1))


class Sent:
    """A request with a body of that size."""

    def __init__(self, size: int) -> None:
        self._size = size

    async def stream(self) -> Any:
        yield b"x" * self._size


def test_long_requests_that_wait_are_few() -> None:
    bodies = Bodies()

    async def hold(left: int) -> None:
        async with bodies.read(Sent(MAX_BODY)):  # type: ignore[arg-type]
            if left:
                await hold(left - 1)

    asyncio.run(hold(MAX_HELD // MAX_BODY - 1))
    with pytest.raises(BusyError):
        asyncio.run(hold(MAX_HELD // MAX_BODY))
    assert bodies._held == 0


def test_a_seed_gives_the_same_answer_whatever_came_before(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(sharpness=0.01, context=256))
    asked = [{"role": "user", "content": "hello " * 20}]
    with ChatModel.load(path, threads=1) as model:

        def answer(seed: int | None, *, reuse: bool = True) -> tuple[str, int]:
            pieces = model.stream(asked, max_tokens=30, temperature=1.5, seed=seed, reuse=reuse)
            text = "".join(pieces)
            assert model.last_stats is not None
            return text, model.last_stats.reused_tokens

        first = answer(5)
        assert first[1] == 0
        assert answer(6)[0] != first[0]
        list(model.stream([{"role": "user", "content": "hello"}], max_tokens=3))
        assert answer(5) == first
        assert answer(MOST_SEED)[1] == 0
        assert answer(None)[1] > 0
        assert answer(None, reuse=False)[1] == 0


def test_the_log_says_each_kind_once() -> None:
    said: list[str] = []
    log = OncePerKind(said.append)
    for number in range(3):
        for kind in ("broken", "pipe"):
            try:
                raise OSError(number)
            except OSError as error:
                log.say(kind, kind, error)
    assert [line for line in said if line.endswith("(said once)")] == ["broken (said once)", "pipe (said once)"]
    log.say("x", "x", asyncio.CancelledError())
    with closing(asyncio.new_event_loop()) as loop:
        log.loop_error(loop, {"message": "socket.accept() out of system resource"})
    assert said[-1] == "no more connections: this process has too many open files (said once)"
    for number in range(1000):
        log.say(str(number), str(number), None)
    assert len(said) < 70
