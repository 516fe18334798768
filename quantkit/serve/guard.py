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
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quantkit.serve.page.assets import FOLDER
from quantkit.serve.refusals import error_object

_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


_OPEN = ("/", "/docs", "/favicon.ico", "/health", "/openapi.json", "/v1/health")
"""Paths that need no key."""


@dataclass(frozen=True)
class Access:
    """Who may use a server.

    Attributes:
        api_key: the key that requests must contain, as ``Authorization: Bearer KEY``; None for no key.
        loopback: whether the server listens on a loopback address. Then only loopback names are accepted as ``Host``.
        names: the machine's names on a network. A server without a key accepts only these and addresses; with a key it
            accepts any name, because it cannot know all of its names.
        hosts: further names, such as a proxy's. Pages from there may use the server too.
        origins: where else web pages that may use the server come from, such as ``https://chat.example.org``.
    """

    api_key: str | None = None
    loopback: bool = True
    names: Collection[str] = ()
    hosts: Collection[str] = ()
    origins: Collection[str] = ()


class Guard:
    """Middleware that passes a request on or refuses it, and adds headers that keep responses from other pages."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        """Guard *app*."""
        self._app = app
        self._keys = () if access.api_key is None else _as_sent(f"Bearer {access.api_key}")
        self._loopback = access.loopback
        self._names = {name.lower() for name in access.names}
        self._hosts = {name.lower() for name in access.hosts}
        self._origins = {origin.lower() for origin in access.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 401 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        extra = self._for_page(asked)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, **extra}.items():
                    headers[name] = value
            await send(message)

        app = self._refusal(asked, scope["path"], scope["method"]) or self._app
        await app(scope, receive, send_marked)

    def _for_page(self, asked: Headers) -> dict[str, str]:
        """The headers that let a page from an allowed origin read the response."""
        origin = asked.get("origin", "")
        if origin.lower() not in self._origins:
            return {"vary": "origin"} if self._origins else {}
        return {
            "access-control-allow-origin": origin,
            "access-control-allow-headers": asked.get("access-control-request-headers", "authorization, content-type"),
            "access-control-allow-methods": "GET, POST",
            "cross-origin-resource-policy": "cross-origin",
            "vary": "origin",
        }

    def _refusal(self, headers: Headers, path: str, method: str) -> Response | None:
        host = headers.get("host", "")
        name = _name(host)
        if name not in self._hosts:
            if self._loopback and not is_loopback(name):
                message = (
                    f"this server answers only to localhost and 127.0.0.1, not to {host!r}; --allow-host adds names"
                )
                return _refused(403, message)
            if not self._loopback and not self._keys and not self._is_known(name):
                message = f"this server does not know the name {host!r}: use its address, or --allow-host NAME"
                return _refused(403, message)
        origin = headers.get("origin")
        if origin is not None and not self._is_own(origin, host):
            if origin.lower() not in self._origins:
                return _refused(403, f"web pages from {origin} may not use this server; --allow-origin adds some")
            if method == "OPTIONS":  # a browser asks before it sends the request, without the key
                return Response(status_code=204)
        if self._keys and path not in _OPEN and not path.startswith(FOLDER):
            given = headers.get("authorization", "").encode("latin-1")
            if not any(secrets.compare_digest(given, key) for key in self._keys):
                return _refused(401, "the API key is missing or wrong", code="invalid_api_key")
        return None

    def _is_own(self, origin: str, host: str) -> bool:
        own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}
        return origin.lower() in own or _name(origin.partition("://")[2]) in self._hosts

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


def _refused(status: int, message: str, *, code: str | None = None) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(error_object(message, "invalid_request_error", code=code), status_code=status, headers=headers)
