"""What hostile clients send: none of it is read otherwise than a proxy would, and nobody else waits for it."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.responses import JSONResponse
from tiny_gguf import EOT, Tiny, write_tiny_gguf
from uvicorn.server import ServerState

from quantkit.chat_template.process import TemplateProcess
from quantkit.run import grammar_check
from quantkit.run.options import GrammarError
from quantkit.serve.connection import Connection
from quantkit.serve.errors import RequestError
from quantkit.serve.schema_grammar import schema_grammar
from quantkit.serve.turns import Place, Turn, Turns
from quantkit.serve.whole_response import WholeResponse
from quantkit.system.limited_process import KilledError, Limits
from tests.support.patience import PATIENCE, wait_for
from tests.support.served import Answer, Server, running_server

KEY = {"authorization": "Bearer open"}
SCRIPT = """
from quantkit.ggml.llama import begin
begin()
import sys
import quantkit.run.session as session, quantkit.serve.choices, quantkit.serve.connection
quantkit.serve.connection.READING = 0.5
quantkit.serve.choices.MOST_SCORES = 500
found = session.answer_format
def told(*given, **named):
    print("asked for the form of answers", file=sys.stderr, flush=True)
    return found(*given, **named)
session.answer_format = told
close_unread = quantkit.serve.connection.Connection._close_unread
def close(self):
    held = self.transport.get_write_buffer_size()
    close_unread(self)
    if held and not self.transport.get_write_buffer_size():
        print("disconnected", file=sys.stderr, flush=True)
quantkit.serve.connection.Connection._close_unread = close
import gc, signal
signal.signal(signal.SIGUSR1, lambda *given: print(
    "frozen", gc.get_freeze_count(), gc.get_threshold()[2], file=sys.stderr, flush=True))
"""
ASK = "POST /tokenize HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer open\r\n"
HIDDEN = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a key, little patience with clients that do not read, and room for few probabilities."""
    folder = tmp_path_factory.mktemp("attacked")
    path = write_tiny_gguf(folder / "tiny.gguf", Tiny(stop=""))
    arguments = (path, "--param", "temperature=0", "--api-key", "open")
    with running_server(folder / "log.txt", *arguments, script=SCRIPT) as server:
        yield server


def sent(server: Server, data: bytes, *, small: bool = False, until: Callable[[], object] = lambda: True) -> bytes:
    """All that comes back on a connection; *small*: with room for little; *until*: when it begins to read."""
    there = urlsplit(server.url)
    with closing(socket.socket()) as connection:
        if small:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect((str(there.hostname), there.port or 0))
        parts = []
        try:
            connection.sendall(data)
            wait_for(until, server.process)
            while part := connection.recv(2**16):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)


def ask(server: Server, **parameters: Any) -> Answer:
    body = {"messages": [{"role": "user", "content": "hello"}], **parameters}
    return server.request("POST", "/v1/chat/completions", body, KEY)


@pytest.mark.parametrize(
    "lengths",
    [
        "content-length: 6\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
        "x: y\ntransfer-encoding: chunked\r\ncontent-length: 6\r\n",
        "content-length: 0\r\ncontent-length: 6\r\n",
        "content-length: +6\r\n",
        "content-length: 0x6\r\n",
        "content-length: 1_0\r\n",
        "content-length: -1\r\n",
        f"content-length: {'9' * 40}\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding : chunked\r\n",
        "host: localhost\r\n",
        "x: \0\r\n",
    ],
)
def test_a_request_that_others_may_read_otherwise_is_refused_whole(server: Server, lengths: str) -> None:
    """Behind a proxy, what one of them takes for a body could be a request to the other."""
    answer = sent(server, f"{ASK}{lengths}\r\n0\r\n\r\n{HIDDEN}".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_chunks_may_be_small_but_not_all_of_them(server: Server) -> None:
    text = json.dumps({"content": "hello " * 2000})
    for size, status in ((64, b"200"), (8, b"400"), (1, b"400")):
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        chunks = "".join(f"{len(part):x}\r\n{part}\r\n" for part in parts)
        head = f"{ASK}transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        assert sent(server, f"{head}{chunks}0\r\n\r\n".encode())[9:12] == status, size


def test_who_reads_nothing_is_disconnected(server: Server) -> None:
    asked = HIDDEN.replace("/health", "/openapi.json").encode()
    count = 400  # 13 MB, more than buffers hold
    came = sent(server, asked * count, small=True, until=lambda: "disconnected" in server.log.read_text("utf-8"))
    assert came.count(b"HTTP/1.1 200 ") < count


@pytest.mark.parametrize("closing", [False, True])
def test_who_reads_slowly_is_not_disconnected(closing: bool) -> None:
    """What waits to be written may be as much as before: it may be something else."""
    later: list[Any] = []
    timer = SimpleNamespace(call_later=lambda seconds, call: later.append(call) or SimpleNamespace(cancel=bool))
    transport = SimpleNamespace(
        size=0, aborted=0, get_extra_info=lambda name: None, is_closing=lambda: closing, pause_reading=bool
    )
    transport.get_write_buffer_size = lambda: transport.size
    transport.abort = lambda: setattr(transport, "aborted", transport.aborted + 1)
    loop: Any = timer
    config = uvicorn.Config(lambda *asked: None, log_config=None, lifespan="off", ws="none")  # type: ignore[arg-type]
    connection = Connection(config, ServerState(), {}, loop)
    connection.connection_made(transport)  # type: ignore[arg-type]
    transport.size = 90_000
    connection.pause_writing()
    check = connection._close_unread
    check()
    connection.resume_writing()
    connection.pause_writing()
    check()
    transport.size -= 1
    check()
    assert not transport.aborted
    assert later.count(check) == 4
    check()
    assert transport.aborted == 1
    assert later.count(check) == 4


def test_garbage_in_the_middle_of_an_answer_ends_it_without_a_word(server: Server) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "?"}], "stream": True, "n": 64, "max_tokens": 400})
    head = ASK.replace("/tokenize", "/v1/chat/completions")
    chunks = f"{len(body):x}\r\n{body}\r\nnot a chunk\r\n"
    answer = sent(server, f"{head}transfer-encoding: chunked\r\n\r\n{chunks}".encode())
    assert answer.count(b"HTTP/1.1 ") == 1
    assert "Traceback" not in server.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../v1/models",
        "/static/%2e%2e/v1/models",
        "/static/..%2fv1/models",
        "/static//etc/passwd",
        "/static/%2e%2e/%2e%2e/worker.py",
        "/docs/../v1/models",
        "/docs/..;/v1/models",
        "/health/../v1/models",
        "//v1/models",
        "/v1//models",
        "/v1/models?/health",
        "/v1/models;/health",
        "/v1/models%3f",
        "/V1/MODELS",
        "http://localhost/v1/models",
    ],
)
def test_no_path_leads_around_the_key_or_out_of_the_folder(server: Server, path: str) -> None:
    answer = sent(server, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    assert answer[9:12] in (b"401", b"404"), answer
    assert b"root:" not in answer


def test_a_flood_of_special_tokens_is_refused_at_once(server: Server) -> None:
    refused = ask(server, messages=[{"role": "user", "content": EOT * 380_000}])
    assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
    assert "at least 380" in refused.error["message"]
    assert ask(server, max_tokens=1).status == 200


def test_a_request_for_everything_at_once(server: Server) -> None:
    """Its probabilities would take gigabytes until all answers are there; what is sent at once is not kept."""
    everything = {"n": 64, "logprobs": True, "top_logprobs": 20, "stop": ["x" * 60000] * 64, "max_tokens": 30}
    refused = ask(server, **everything)
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert "ask for fewer, or for a stream" in refused.error["message"]
    streamed = ask(server, **{**everything, "n": 3}, stream=True)
    chosen = [event["choices"][0] for event in streamed.events[:-1]]
    assert sum(len(one["logprobs"]["content"]) for one in chosen if one["logprobs"]) > 60
    assert ask(server, logprobs=True, top_logprobs=10, max_tokens=30).status == 200
    both = ask(server, grammar="root ::= [a-z]+", json_schema={}, tools=[])
    assert both.status == 400
    assert "not supported together" in both.error["message"]


def test_how_answers_look_is_found_out_before_the_first_request(server: Server) -> None:
    log = server.log.read_text(encoding="utf-8")
    assert log.index("asked for the form of answers") < log.index("serving tiny")
    assert log.count("asked for the form of answers") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="asks by a signal")
def test_cycles_that_requests_leave_are_freed_soon(server: Server) -> None:
    """Without that ten thousand requests took 95 MB; too many for a test, so this looks at what was set."""
    server.process.send_signal(signal.SIGUSR1)
    found = wait_for(lambda: re.search(r"frozen (\d+) (\d+)\n", server.log.read_text("utf-8")), server.process)
    assert found is not None
    assert int(found[1]) > 10_000
    assert int(found[2]) == 1


@pytest.mark.parametrize("value", [{"a": [], "b": {}}, ["你", None, True, 1.5], [{"x": [1]}] * 200, list(range(129))])
def test_a_large_answer_is_written_as_starlette_would(value: Any) -> None:
    assert WholeResponse({"said": value}).body == JSONResponse({"said": value}).body
    with pytest.raises(ValueError, match="not JSON compliant"):
        WholeResponse([math.nan])


def test_a_schema_cannot_multiply() -> None:
    """Each type of a list once; and no grammar is written that is too large to be read."""
    inner = {"type": ["array"] * 1900, "items": {"enum": ["x" * 5000]}}
    assert len(schema_grammar(inner)) < 10_000
    with pytest.raises(RequestError, match="too large"):
        schema_grammar({"type": "array", "items": {"enum": ["x" * 70_000]}})


def test_a_killed_process_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    codes = iter([-9, 0, -9, -9])
    done = subprocess.CompletedProcess
    monkeypatch.setattr(grammar_check, "_run", lambda line, text: done(line, next(codes), b"", b""))
    grammar_check.check_grammar('root ::= "once"', tmp_path)
    with pytest.raises(GrammarError):
        grammar_check.check_grammar('root ::= "twice"', tmp_path)


def test_closing_does_not_wait_for_a_question() -> None:
    process = TemplateProcess(Limits(seconds=60))
    failed: list[BaseException] = []

    def ask_long() -> None:
        loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
        try:
            process.ask({"do": "render", "template": loops, "messages": [], "bos_token": "", "eos_token": ""})
        except KilledError as error:
            failed.append(error)

    asking = threading.Thread(target=ask_long)
    asking.start()
    wait_for(lambda: process._process)
    process.close()
    asking.join(PATIENCE)
    assert len(failed) == 1, "it was not asked again"


def test_the_models_thread_survives_what_nobody_foresaw() -> None:
    lanes: Any = SimpleNamespace(parallel=2, kept=())
    place = Place(lanes)
    turns = Turns([place])
    ended: list[Exception | None] = []
    told = threading.Semaphore(0)

    def end(error: Exception | None) -> None:
        ended.append(error)
        told.release()

    def fails() -> bool:
        raise ZeroDivisionError

    answer: Any = None
    for go_on in (fails, lambda: False):
        turns.add(place, Turn(answer, bool, end, go_on))
        assert told.acquire(timeout=PATIENCE)
    assert [type(error) for error in ended] == [ZeroDivisionError, type(None)]
    assert turns.is_idle(PATIENCE)
