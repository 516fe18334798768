"""Connections: how many there are, and how long one may take to say what it wants and to read what it gets."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 20.0
"""Seconds for the head of a request."""

READING = 60.0
"""Seconds after which a client that reads nothing of what is written to it is disconnected; at most twice as long."""

_FEW, _SMALLEST = 1024, 64  # chunks that may be small, and bytes that the others of a body have on average

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)  # fmt: skip


def most_connections() -> int:
    """Connections at a time: at most what the file descriptors of this process allow, with some left for others."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 512
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 512 if allowed == resource.RLIM_INFINITY else max(16, min(512, allowed - 128))


class Requests(h11.Connection):
    """Reads requests, and refuses what is no honest one.

    With two lengths, a proxy and this server could disagree on where a request ends. And each chunk takes as long to
    read as kilobytes in one, so a flood of the smallest ones would keep everybody waiting.
    """

    _chunked = False
    _chunks = _size = 0

    def next_event(self) -> Any:
        """As h11's.

        Raises:
            h11.RemoteProtocolError: also for these.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            self._chunked, self._chunks, self._size = b"transfer-encoding" in names, 0, 0
            if self._chunked and b"content-length" in names:
                raise h11.RemoteProtocolError("two lengths")
        elif self._chunked and isinstance(event, h11.Data):
            self._chunks, self._size = self._chunks + 1, self._size + len(event.data)
            if self._chunks > _FEW + self._size // _SMALLEST:
                raise h11.RemoteProtocolError("too many chunks")
        return event


class Connection(H11Protocol):
    """Closes a connection on which no request arrives or no answer is read, and refuses one too many.

    uvicorn itself waits for ever for the head of a request, and for a client that does not read.
    """

    most = 512
    _clock: asyncio.TimerHandle | None = None
    _unread = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Requests(h11.SERVER)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reader = self.loop.call_later(READING, self._close_unread)
        if len(self.connections) > self.most:
            transport.write(_BUSY)
            transport.close()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest()
        self._reader.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_waiting:
            self._watch()
        else:
            self._rest()

    @property
    def _is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(PATIENCE, self._close_silent)

    def _rest(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _close_silent(self) -> None:
        self._clock = None
        if self._is_waiting:
            self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = 0

    def _close_unread(self) -> None:
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        # Nothing is added to what waits to be written then.
        is_full = self.flow.write_paused or self.transport.is_closing()
        if is_full and 0 < before <= self._unread:
            self.transport.abort()
        else:
            self._reader = self.loop.call_later(READING, self._close_unread)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; in the middle of an answer there is no room for a word on it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with suppress(h11.LocalProtocolError):  # the answer to HEAD has no room for one either
                super().send_400_response(msg)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """A WebSocket is answered like any request; uvicorn would recommend packages."""


def connection_class() -> type[Any]:
    """The class of this process's connections."""
    return type("LimitedConnection", (Connection,), {"most": most_connections()})
