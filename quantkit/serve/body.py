"""The bodies of requests: of limited size, in limited time, and not too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from quantkit.serve.errors import BusyError, RequestError, StoppingError

MAX_BODY = 4 * 2**20
"""The longest request in bytes; more text than any context holds."""

MAX_HELD = 16 * MAX_BODY
"""The longest requests in bytes, of all that have no answer yet together."""

PATIENCE = 20.0
"""Seconds for a whole request."""


class Bodies:
    """The bodies that are being read or answered."""

    def __init__(self) -> None:
        self._held = 0
        self._clocks: set[asyncio.Timeout] = set()
        self._ended = False

    def end(self) -> None:
        """Wait for no more of any body, because the server ends."""
        self._ended = True
        for clock in self._clocks:
            clock.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, which counts as held inside of the context.

        Raises:
            RequestError: it is too long, or comes too slowly.
            BusyError: too much is held already.
            StoppingError: see :meth:`end`.
            ClientDisconnect: the client has left.
        """
        body = bytearray()
        try:
            await self._fill(body, request)
            yield bytes(body)
        finally:
            self._held -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        try:
            async with asyncio.timeout(PATIENCE) as clock:
                self._clocks.add(clock)
                try:
                    async for part in request.stream():
                        body += part
                        self._held += len(part)
                        if len(body) > MAX_BODY:
                            raise RequestError(f"the request is longer than {MAX_BODY} bytes", status=413)
                        if self._held > MAX_HELD:
                            raise BusyError("too many long requests are waiting for an answer already")
                finally:
                    self._clocks.discard(clock)
        except TimeoutError:
            if self._ended:
                raise StoppingError("the server is shutting down") from None
            raise RequestError(f"the request did not arrive within {PATIENCE:g} seconds", status=408) from None
