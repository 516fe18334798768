"""What may answer at Ollama's address: another server, half a stream, values of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import httpx

from quantkit.errors import OllamaError
from quantkit.ollama.client import Server
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file
from tests.support.fuzz.worded import bytes_of, text_of

_WORDS = (
    *(
        '{"version": "0.33.0"}',
        '{"status": "success"}\n',
        '{"error": "no"}\n',
        '{"model": "m", "done": true}\n',
        "null",
    ),
    *('{"message": {"role": "assistant", "content": "a"}}\n', '"status": ', '"total": ', '"digest": ', '"completed": '),
    *('"message": ', '"role": ', '"content": ', '"done_reason": "stop"', '"tool_calls": ', '"thinking": ', "[]", "{}"),
    *('"eval_count": ', "NaN", "1e999", '"\\ud800"', "é", "\n", ", ", "true", "{", "}", "<html>", "[" * 3000),
)
_STATUSES = (200, 200, 200, 204, 301, 400, 401, 404, 500, 503)
_SEEDS = (
    '{"version": "0.33.0"}',
    '{"status": "reading"}\n{"status": "success", "digest": "a", "total": 3, "completed": 1}\n',
    '{"message": {"role": "assistant", "content": "a"}, "done": false}\n{"message": {"content": ""}, "done": true}\n',
    '{"error": "no"}\n',
)


@cache
def _server() -> Server:
    return Server()


def _read(data: bytes) -> None:
    if not data:
        return
    status, body = _STATUSES[data[0] % len(_STATUSES)], text_of(data[1:], _WORDS).encode("utf-8", "surrogatepass")
    server = _server()
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=body))
    server._client = httpx.Client(transport=transport, base_url="http://127.0.0.1:11434")
    refusals: list[OllamaError] = []
    gguf = file("a.gguf", b"GGUF")
    reads = _reads(server, gguf)
    for read in reads:
        try:
            read()
        except OllamaError as error:
            str(error).encode()
            refusals.append(error)
    if len(refusals) == len(reads):
        raise refusals[0]


def _reads(server: Server, gguf: Path) -> Sequence[Callable[[], object]]:
    return (
        server.version,
        lambda: server.has_model("m"),
        lambda: server.upload(gguf, lambda count: None),
        lambda: [status.encode() for status in server.create_model({"model": "m"})],
        lambda: [(one.status, one.total) for one in server.push_model("m")],
        lambda: [(one.message.content, one.done) for one in server.answer("m", [], max_tokens=3)],
    )


READER = Reader("ollama-answers", lambda: [b"\0" + bytes_of(seed, _WORDS) for seed in _SEEDS], _read)
