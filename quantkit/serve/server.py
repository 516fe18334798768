"""The server on a listening socket."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from quantkit.serve.connection import connection_class
from quantkit.serve.log import OncePerKind

_PATIENCE = 2  # seconds to wait for connections, and for the model, at shutdown
_BACKLOG = 64  # connections that are accepted at once, and so file descriptors beyond the limit
_INTERRUPTED = 130


def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    started: Callable[[], None],
    stop: Callable[[], None],
    closing: Callable[[], None],
    is_idle: Callable[[float], bool],
    note: Callable[[str], None],
) -> None:
    """Serve *app* until SIGTERM, after which this returns, or Ctrl-C.

    The process ends here if a step of the model takes too long, because nothing may free the model then.

    Args:
        app: the application.
        listening: the socket.
        started: called when the server is ready for requests.
        stop: called from a signal handler when the server must end.
        closing: called in the event loop when the server ends.
        is_idle: waits some seconds for the model; whether nothing uses it.
        note: writes a line to the log.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    config = uvicorn.Config(
        app,
        http=connection_class(),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_PATIENCE,
    )
    log = OncePerKind(note)
    with _sigterm_is_no_error(), _logging_to(log):
        try:
            _Server(config, started, stop, closing, log).run(sockets=[listening])
        except KeyboardInterrupt:
            _leave_if_busy(is_idle, _INTERRUPTED)
            raise
        _leave_if_busy(is_idle, 0)


def _leave_if_busy(is_idle: Callable[[float], bool], code: int) -> None:
    if not is_idle(_PATIENCE):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        started: Callable[[], None],
        stop: Callable[[], None],
        closing: Callable[[], None],
        log: OncePerKind,
    ) -> None:
        super().__init__(config)
        self._tell_started, self._stop, self._closing, self._log = started, stop, closing, log

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._log.loop_error)
        await super().startup(sockets=sockets)
        # A request leaves cycles behind, which only a look through all objects frees; Python puts that off while there
        # are many. What is there by now stays, so without it the look is short and can come often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(700, 10, 1)
        self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing()
        await super().shutdown(sockets=sockets)


@contextmanager
def _logging_to(log: OncePerKind) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(log)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(log)
            logger.propagate = True


@contextmanager
def _sigterm_is_no_error() -> Iterator[None]:
    """Uvicorn raises the signal that ended it again at the end; that SIGTERM must not count as an interruption."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
