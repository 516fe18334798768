"""The page to chat in the browser: one file with its script and style, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


async def page_response(request: Request) -> Response:
    """The page."""
    page = read_page()
    return HTMLResponse(page, headers={"content-security-policy": content_policy(page)})


@cache
def read_page() -> str:
    """Its HTML."""
    return files("quantkit.serve").joinpath("page.html").read_text(encoding="utf-8")


@cache
def content_policy(page: str) -> str:
    """The Content-Security-Policy: what is in the page may run and talk to its own server; all else is refused.

    Trusted types switch ``innerHTML`` and its like off, so nothing a model says can become markup.
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
