"""The page's files, and a policy that allows nothing else."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = "/page/"
"""Where the page's scripts and styles are; like the page, they need no key."""

_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
"""The Content-Security-Policy: only the page's own files may run, and only talk to their own server.

Trusted types disable ``innerHTML`` and the like, so nothing a model says can become markup.
"""


def page_routes() -> list[Route]:
    """Return the routes of the page and its files."""
    return [
        Route("/", _page, methods=["GET"]),
        Route(f"{FOLDER}{{name}}", _file, methods=["GET"]),
    ]


@cache
def read_assets() -> dict[str, str]:
    """Return the page's files, name -> text."""
    folder = files("quantkit.serve.page").joinpath("static")
    return {
        entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if _suffix(entry.name) in _TYPES
    }


async def _page(request: Request) -> Response:
    return _response("index.html")


async def _file(request: Request) -> Response:
    return _response(request.path_params["name"])


def _response(name: str) -> Response:
    text = read_assets().get(name)
    if text is None:
        raise HTTPException(404)
    return Response(text, media_type=_TYPES[_suffix(name)], headers={"content-security-policy": POLICY})


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
