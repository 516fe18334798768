"""What a network, a proxy or a hub may do to the content of a file: answers for :class:`tests.support.hub_server.Repo`.

A trouble answers requests for content in place of the server, until it returns False.
"""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

Headers = dict[str, str]
# Most seconds that a silent server keeps its thread, and most bytes that an endless one sends.
_SILENT_SECONDS, _ENDLESS = 60.0, 1 << 28


@dataclass(frozen=True)
class Asked:
    """A request for content.

    Attributes:
        handler: of the request.
        data: the whole content.
        start: where the range begins that was asked for.
        headers: of a proper answer, without its length.
    """

    handler: BaseHTTPRequestHandler
    data: bytes
    start: int
    headers: Headers

    def send(self, status: int, body: bytes, *, length: str | None = "", more: Headers | None = None) -> None:
        """Answer; *length* "" is that of the body, None leaves it out."""
        self.handler.send_response(status)
        for name, value in {**self.headers, **(more or {})}.items():
            self.handler.send_header(name, value)
        if length is not None:
            self.handler.send_header("Content-Length", length or str(len(body)))
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def proper(self, upto: int | None = None, **options: Any) -> None:
        """The answer that was asked for, or its first bytes."""
        body = self.data[self.start :]
        self.send(206 if self.start else 200, body[:upto], length=str(len(body)), **options)

    def hang_up(self) -> None:
        self.handler.wfile.flush()
        self.handler.close_connection = True

    def gone(self, seconds: float) -> bool:
        """Whether the other side hangs up within this time."""
        self.handler.connection.settimeout(seconds)
        try:
            return self.handler.connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


Trouble = Callable[[Asked], bool]


def times(count: int, trouble: Callable[[Asked], None]) -> Trouble:
    """A trouble that goes away."""
    left = [count]

    def once(asked: Asked) -> bool:
        left[0] -= 1
        if left[0] < 0:
            return False
        trouble(asked)
        return True

    return once


def always(trouble: Callable[[Asked], None]) -> Trouble:
    return times(1 << 30, trouble)


def first(*troubles: Trouble) -> Trouble:
    """One trouble after another: each until it goes away."""
    return lambda asked: any(trouble(asked) for trouble in troubles)


@dataclass
class Cuts:
    """Hangs up after a random number of bytes."""

    least: int
    most: int
    generator: random.Random = field(default_factory=lambda: random.Random(7))

    def __call__(self, asked: Asked) -> None:
        asked.proper(self.generator.randint(self.least, self.most))
        asked.hang_up()


def silent(asked: Asked) -> None:
    """Half of what was asked for, and then nothing."""
    asked.proper((len(asked.data) - asked.start) // 2)
    asked.handler.wfile.flush()
    asked.gone(_SILENT_SECONDS)
    asked.hang_up()


def no_answer(asked: Asked) -> None:
    asked.gone(_SILENT_SECONDS)
    asked.hang_up()


def slow_headers(asked: Asked) -> None:
    """A byte of the headers now and then."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
        asked.handler.wfile.write(bytes([byte]))
        if asked.gone(0.02):
            break
    asked.hang_up()


def trickle(seconds: float) -> Callable[[Asked], None]:
    """A byte now and then."""

    def send(asked: Asked) -> None:
        asked.proper(0)
        for byte in asked.data[asked.start :]:
            asked.handler.wfile.write(bytes([byte]))
            if asked.gone(seconds):
                break
        asked.hang_up()

    return send


def status(code: int, *, after: str | None = None, body: bytes = b"busy") -> Callable[[Asked], None]:
    """An answer without content; *after* is its Retry-After."""
    return lambda asked: asked.send(code, body, more={"Retry-After": after} if after is not None else {})


def length(told: Callable[[int], str | None], *, hang_up: bool = True) -> Callable[[Asked], None]:
    """A Content-Length that is not that of the body."""

    def send(asked: Asked) -> None:
        body = asked.data[asked.start :]
        asked.send(206 if asked.start else 200, body, length=told(len(body)))
        if hang_up:
            asked.hang_up()
        else:
            asked.handler.wfile.flush()
            asked.gone(_SILENT_SECONDS)
            asked.hang_up()

    return send


def whole(asked: Asked) -> None:
    """All of it, whatever range was asked for."""
    asked.headers.pop("Content-Range", None)
    asked.send(200, asked.data)


def other_range(asked: Asked) -> None:
    """A range that begins elsewhere."""
    at = asked.start // 2
    end = len(asked.data) - 1
    asked.send(206, asked.data[at:], more={"Content-Range": f"bytes {at}-{end}/{len(asked.data)}"})


def no_range(asked: Asked) -> None:
    """A part that does not say which."""
    asked.headers.pop("Content-Range", None)
    asked.send(206, asked.data[asked.start :])


def of_other(data: bytes, tag: str = '"another"') -> Callable[[Asked], None]:
    """The range of another file: it has changed in the middle."""

    def send(asked: Asked) -> None:
        Asked(asked.handler, data, asked.start, {**asked.headers, "ETag": tag}).proper()

    return send


def zipped(asked: Asked) -> None:
    """Compressed, though nobody asked for that."""
    asked.headers.pop("Content-Range", None)
    asked.send(200, gzip.compress(asked.data), more={"Content-Encoding": "gzip"})


def endless(asked: Asked) -> None:
    asked.headers.pop("Content-Range", None)
    asked.send(200, b"", length=None, more={"Transfer-Encoding": "chunked"})
    block = bytes(1 << 16)
    sent = 0
    while sent < _ENDLESS:
        try:
            asked.handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        except OSError:
            break
        sent += len(block)
        time.sleep(0)
    asked.hang_up()


def page(asked: Asked) -> None:
    """What a proxy or the login of a network shows in place of the file."""
    body = b"<html><body>Please log in</body></html>"
    asked.headers.pop("Content-Range", None)
    asked.send(200, body, more={"Content-Type": "text/html"})


def redirect(to: Callable[[Asked], str]) -> Callable[[Asked], None]:
    return lambda asked: asked.send(302, b"", more={"Location": to(asked)})
