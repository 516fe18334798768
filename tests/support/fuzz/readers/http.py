"""What a connection may send to the server, in any pieces: the answer is never that it failed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.fuzz.reader import Reader
from tests.support.fuzz.served_bytes import answer
from tests.support.fuzz.worded import bytes_of, text_of

_HOST = "host: localhost\r\n"
_CHAT: Mapping[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def _post(path: str, body: Mapping[str, Any], head: str = _HOST) -> str:
    text = json.dumps(body)
    return f"POST {path} HTTP/1.1\r\n{head}content-length: {len(text)}\r\n\r\n{text}"


_REQUESTS = (
    _post("/v1/chat/completions", _CHAT),
    _post("/v1/chat/completions", {**_CHAT, "stream": True, "stream_options": {"include_usage": True}, "n": 2}),
    _post("/completions", {"prompt": ["a", "b"], "stream": True, "logprobs": 1}),
    _post("/v1/completions", {"prompt": [[1], [2]], "grammar": "root ::= x", "n": 3}),
    _post("/tokenize", {"content": "a"}),
    _post("/detokenize", {"tokens": [1, 299]}),
    _post("/render", {"content": "# a"}),
    _post("/v1/embeddings", {"input": "a"}),
    f'POST /tokenize HTTP/1.1\r\n{_HOST}transfer-encoding: chunked\r\n\r\n11\r\n{{"content": "aa"}}\r\n0\r\n\r\n',
    *(
        f"GET {path} HTTP/1.1\r\n{_HOST}\r\n"
        for path in ("/", "/health", "/v1/models", "/models/m", "/metrics", "/docs")
    ),
    f"GET /openapi.json HTTP/1.1\r\n{_HOST}origin: http://localhost\r\nconnection: close\r\n\r\n",
    "HEAD /favicon.ico HTTP/1.0\r\n\r\n",
    f"OPTIONS / HTTP/1.1\r\n{_HOST}origin: http://evil\r\naccess-control-request-headers: x\r\n\r\n",
    f"GET /x HTTP/1.1\r\n{_HOST}expect: 100-continue\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
)
_WORDS = (
    *_REQUESTS,
    *(
        "GET ",
        "POST ",
        "HEAD ",
        "PUT ",
        "OPTIONS ",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
    ),
    *(
        _HOST,
        "host: evil\r\n",
        "host: [::1]:80\r\n",
        "host: [\r\n",
        "Host: \r\n",
        "content-length: 2\r\n",
        "content-length: ",
    ),
    *("transfer-encoding: chunked\r\n", "transfer-encoding: gzip, chunked\r\n", "content-type: application/json\r\n"),
    *(
        "authorization: Bearer x\r\n",
        "origin: null\r\n",
        "expect: 100-continue\r\n",
        "connection: close\r\n",
        "\r\n\r\n",
    ),
    *(
        "\r\n",
        "0\r\n\r\n",
        "5\r\nabcde\r\n",
        "ffffffffffffffffff\r\n",
        ": ",
        " ",
        "\t",
        "{}",
        '{"messages": ',
        "[]",
        "}",
    ),
    *("/v1/chat/completions", "/models/", "/static/", "/%2e%2e/", "/..", "//", "?a=b", "#", "%00", "%ff", "%HTTP", "*"),
    *("http://localhost/", "\xff", "\x80", "\0", "x" * 500, '"content": "a"', "/lora-adapters", "/tokenize", "/render"),
)


def _read(data: bytes) -> None:
    if not data:
        return
    sent = text_of(data[1:], _WORDS).encode("latin-1")
    by = (len(sent) or 1, 1, 7, 100)[data[0] % 4]
    if by == 1 and len(sent) > 2000:
        by = 50
    found = answer([sent[at : at + by] for at in range(0, len(sent), by)])
    assert not found.errors, found.errors
    assert all(status < 500 for status in found.statuses), found.statuses
    assert not found.written or found.written.startswith(b"HTTP/1.1 "), bytes(found.written[:100])


def _seeds() -> Sequence[bytes]:
    return [bytes([number % 4]) + bytes_of(request, _WORDS) for number, request in enumerate(_REQUESTS)]


READER = Reader("http", _seeds, _read, largest=1 << 12, allows=frozenset({"socket.bind", "socket.connect"}))
