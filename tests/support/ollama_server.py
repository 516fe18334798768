"""An Ollama server on loopback, as far as creating a model, one chat and a push go: it keeps what it was asked,
and fails on request.

It checks what the real one checks: digests of blobs, names of files, that a model is made of something.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass
class OllamaServer:
    """The server; a context manager.

    Attributes:
        version: what it says it is.
        models: names that it has, with the request that made each.
        blobs: files that it has, by digest.
        requests: method and path of each request, in order.
        detected: name of a built-in template that it takes the model's own for.
        refusal: what it says, while streaming, instead of creating a model.
        pieces: of an answer; without an end if *ends* is None.
        ends: ``done_reason`` of an answer.
        chat_error: what it says instead of answering.
        foreign: whether it is some other server.
        chats: bodies of the chat requests.
        pushed: names that were pushed.
        push_error: what it says, while streaming, instead of pushing.
    """

    version: str = "0.33.0"
    models: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    detected: str | None = None
    refusal: str | None = None
    pieces: tuple[str, ...] = ("Hello! ", "你好", "！")
    ends: str | None = "stop"
    chat_error: str | None = None
    foreign: bool = False
    chats: list[dict[str, Any]] = field(default_factory=list)
    pushed: list[str] = field(default_factory=list)
    push_error: str | None = None

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"ollama": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """For OLLAMA_HOST."""
        return f"127.0.0.1:{self._server.server_port}"

    def created(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What is streamed while a model is created."""
        if self.refusal is not None:
            yield {"error": self.refusal}
            return
        yield {"status": "parsing GGUF"}
        if self.detected is not None:
            yield {"status": f"using autodetected template {self.detected}"}
        for digest in body.get("files", {}).values():
            yield {"status": f"using existing layer {digest}"}
        yield {"status": "writing manifest"}
        self.models[body["model"]] = body
        yield {"status": "success"}

    def sent(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What is streamed while a model is pushed."""
        yield {"status": "retrieving manifest"}
        for digest in self.models[body["model"]].get("files", {}).values():
            size = len(self.blobs[digest])
            for done in (size // 2, size):
                yield {"status": f"pushing {digest[7:19]}", "digest": digest, "total": size, "completed": done}
        if self.push_error is not None:
            yield {"error": self.push_error}
            return
        self.pushed.append(body["model"])
        yield {"status": "pushing manifest"}
        yield {"status": "success"}

    def answered(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The pieces of an answer."""
        for piece in self.pieces:
            yield _piece(body, {"role": "assistant", "content": piece}, {"done": False})
        while self.ends is None:
            yield _piece(body, {"role": "assistant", "content": "again "}, {"done": False})
        end = {"done": True, "done_reason": self.ends, "eval_count": len(self.pieces)}
        yield _piece(body, {"role": "assistant", "content": ""}, end)


def _piece(body: dict[str, Any], message: dict[str, str], end: dict[str, Any]) -> dict[str, Any]:
    return {"model": body["model"], "created_at": "2026-01-01T00:00:00Z", "message": message, **end}


class _Handler(BaseHTTPRequestHandler):
    ollama: OllamaServer

    def do_GET(self) -> None:
        self._note()
        if self.ollama.foreign:
            self._send(200, b"<html>", "text/html")
        elif self.path == "/api/version":
            self._json({"version": self.ollama.version})
        else:
            self._json({"error": "no such page"}, 404)

    def do_HEAD(self) -> None:
        self._note()
        self._send(200 if self._digest() in self.ollama.blobs else 404, b"")

    def do_POST(self) -> None:
        self._note()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/api/blobs/"):
            self._blob(data)
            return
        body = json.loads(data)
        if self.path == "/api/show":
            known = body["model"] in self.ollama.models
            self._json({} if known else {"error": f"model '{body['model']}' not found"}, 200 if known else 404)
        elif self.path == "/api/create":
            self._create(body)
        elif self.path == "/api/push":
            self._stream(self.ollama.sent(body))
        else:
            self.ollama.chats.append(body)
            if self.ollama.chat_error is not None:
                self._json({"error": self.ollama.chat_error}, 500)
            else:
                self._stream(self.ollama.answered(body))

    def _blob(self, data: bytes) -> None:
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != self._digest():
            self._json({"error": "digest does not match the body"}, 400)
        else:
            self.ollama.blobs[self._digest()] = data
            self._send(201, b"")

    def _create(self, body: dict[str, Any]) -> None:
        files: dict[str, str] = body.get("files", {})
        if "from" not in body and not files:
            self._json({"error": "neither 'from' or 'files' was specified"}, 400)
        elif any(name.startswith(("/", "./", "../")) or set(name) & set("\\:/") for name in files):
            self._json({"error": "file path must be relative"}, 400)
        elif missing := [digest for digest in files.values() if digest not in self.ollama.blobs]:
            self._json({"error": f"blob {missing[0]} was not uploaded"}, 400)
        else:
            self._stream(self.ollama.created(body))

    def _digest(self) -> str:
        return self.path.rpartition("/")[2].replace("%3A", ":")

    def _note(self) -> None:
        self.ollama.requests.append((self.command, self.path))

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, values: Iterable[dict[str, Any]]) -> None:
        """Lines of JSON until the connection ends, as HTTP/1.0 has it."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        try:
            for value in values:
                self.wfile.write(json.dumps(value).encode() + b"\n")
        except OSError:
            return  # the client has heard enough

    def log_message(self, format: str, *args: object) -> None:
        pass
