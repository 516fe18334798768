"""Connections: how many there are, and how long one may take to say what it wants."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 20.0
"""Seconds for the head of a request."""

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


class Connection(H11Protocol):
    """Closes a connection on which no request arrives, and refuses one too many.

    uvicorn itself waits for the head of a request for ever.
    """

    most = 512
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_BUSY)
            transport.close()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest()

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

    def _unsupported_upgrade_warning(self) -> None:
        """A WebSocket is answered like any request; uvicorn would recommend packages."""


def connection_class() -> type[Any]:
    """The class of this process's connections."""
    return type("LimitedConnection", (Connection,), {"most": most_connections()})
