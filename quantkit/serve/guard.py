"""Access control: this machine's own programs and pages may use the server, other web pages may not.

A web page from elsewhere can send requests to 127.0.0.1, and with a name that changes its address (DNS rebinding) it
can also read the answers. The first has a foreign ``Origin``, the second a foreign ``Host``. On a network the same page
can reach every server there, so a server without a key only accepts names that it knows as its own.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quantkit.serve.reply import error_object

_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Middleware that passes a request on or refuses it, and adds headers that keep responses from other pages."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, loopback: bool, names: Collection[str]) -> None:
        """Guard *app*.

        Args:
            app: the application.
            api_key: the key that requests to ``/v1`` must contain, as ``Authorization: Bearer KEY``; None for no key.
            loopback: whether the server listens on a loopback address. Then only loopback names are accepted as
                ``Host``.
            names: the machine's names on a network. A server without a key accepts only these and addresses; with a
                key it accepts any name, because it cannot know all of its names.
        """
        self._app = app
        self._keys = () if api_key is None else _as_sent(f"Bearer {api_key}")
        self._loopback = loopback
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 401 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        app = self._refusal(Headers(scope=scope), scope["path"]) or self._app
        await app(scope, receive, send_marked)

    def _refusal(self, headers: Headers, path: str) -> Response | None:
        host = headers.get("host", "")
        if self._loopback and not is_loopback(_name(host)):
            return _refused(403, f"this server answers only to localhost and 127.0.0.1, not to {host!r}")
        if not self._loopback and not self._keys and not self._is_known(_name(host)):
            return _refused(403, f"this server does not know the name {host!r}: use its address, or --host NAME")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}:
            return _refused(403, f"web pages from {origin} may not use this server")
        if self._keys and path.startswith("/v1"):
            given = headers.get("authorization", "").encode("latin-1")
            if not any(secrets.compare_digest(given, key) for key in self._keys):
                return _refused(401, "the API key is missing or wrong")
        return None

    def _is_known(self, host: str) -> bool:
        return host in self._names or is_loopback(host) or _is_address(host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address means the machine itself."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _as_sent(text: str) -> tuple[bytes, ...]:
    """Return the bytes of a header with *text*: programs send UTF-8, browsers Latin-1 where possible."""
    sent = [text.encode("utf-8", "surrogateescape")]
    with suppress(UnicodeEncodeError):
        sent.append(text.encode("latin-1"))
    return tuple(sent)


def _name(host: str) -> str:
    """Return the name or address in a ``Host`` header, "" if it is invalid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _refused(status: int, message: str) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(error_object(message, "invalid_request_error"), status_code=status, headers=headers)
