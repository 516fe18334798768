"""The chat page: one file with its script and style, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


async def page_response(request: Request) -> Response:
    """Serve the page."""
    page = read_page()
    return HTMLResponse(page, headers={"content-security-policy": content_policy(page)})


@cache
def read_page() -> str:
    """Return the page's HTML."""
    return files("quantkit.serve").joinpath("page.html").read_text(encoding="utf-8")


@cache
def content_policy(page: str) -> str:
    """Return the Content-Security-Policy: only the page's own script may run, and only talk to its own server.

    Trusted types disable ``innerHTML`` and the like, so nothing a model says can become markup.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _hashes(page: str, element: str) -> str:
    found = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
