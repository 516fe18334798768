"""The listening socket, and the server on it."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from quantkit.errors import QuantkitError

_PATIENCE = 5  # seconds to wait for connections to end at shutdown

_HINTS = {
    errno.EADDRINUSE: "choose another port with --port, or let the system choose a free one: --port 0",
    errno.EACCES: "choose a port above 1023 with --port",
    errno.EADDRNOTAVAIL: "use one of this machine's addresses with --host, such as 127.0.0.1",
}


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

    Raises:
        QuantkitError: no such host, or the port is not available.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError for names that no host can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise QuantkitError(f"--host {host}: {reason}", hint="use an address such as 127.0.0.1") from None
    try:
        return socket.create_server((address[0], port), family=family)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "choose another --host or --port")
        # Not its strerror, to which create_server adds words about binding.
        reason = os.strerror(error.errno) if error.errno else error.strerror
        raise QuantkitError(f"cannot listen on {host}, port {port}: {reason}", hint=hint) from None


def url_of(listening: socket.socket) -> str:
    """Return the server's URL for clients on this machine, without a slash at the end."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: ASGIApp, listening: socket.socket, *, started: Callable[[], None], stop: Callable[[], None]) -> None:
    """Serve *app* until SIGTERM, after which this returns, or Ctrl-C.

    Args:
        app: the application.
        listening: the socket.
        started: called when the server is ready for requests.
        stop: called from a signal handler when the server must end.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_PATIENCE,
    )
    with _sigterm_is_no_error():
        _Server(config, started, stop).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None], stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started, self._stop = started, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stop()
        super().handle_exit(sig, frame)


@contextmanager
def _sigterm_is_no_error() -> Iterator[None]:
    """Uvicorn raises the signal that ended it again at the end; that SIGTERM must not count as an interruption."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
