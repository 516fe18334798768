"""``POST /render``: Markdown for the page, as the nodes it builds.

A separate process does it, with limits: some of pygments' patterns take minutes for a few kilobytes of brackets, and
the server's other requests must not wait.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from pydantic import BaseModel, ConfigDict

from quantkit.serve.body import Bodies
from quantkit.serve.errors import RequestError
from quantkit.serve.json_endpoint import Endpoint, json_endpoint
from quantkit.serve.page.markdown import MAX_TEXT
from quantkit.system.limited_process import LimitedProcess, Limits

LIMITS = Limits(seconds=2.0, wall=20.0)
"""An answer of the usual length takes some milliseconds."""


class RenderLimitError(RequestError):
    """A text was stopped at one of the limits."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="content", status=413)


class MarkdownBody(BaseModel):
    """A text to render."""

    model_config = ConfigDict(extra="forbid", strict=True)

    content: str


class Renderer(AbstractContextManager["Renderer"]):
    """Renders Markdown in its process, which ends with the context."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._process = LimitedProcess(
            "quantkit.serve.page.worker", subject="the Markdown", error=RenderLimitError, limits=limits
        )

    def __exit__(self, *raised: object) -> None:
        self._process.close()

    def nodes(self, text: str) -> list[Any]:
        """Return the nodes of :func:`quantkit.serve.page.markdown.render_markdown`.

        Where marking the syntax of code takes too long, code is text.

        Raises:
            RequestError: the text is too long, or takes too long even so.
        """
        if len(text) > MAX_TEXT:
            raise RequestError(f"content is longer than {MAX_TEXT} characters", param="content", status=413)
        try:
            found = self._process.ask({"text": text, "plain": False})
        except RenderLimitError:
            found = self._process.ask({"text": text, "plain": True})
        return list(found["nodes"])


def render(renderer: Renderer, bodies: Bodies) -> Endpoint:
    """The endpoint: ``{"content": "..."}`` gives ``{"nodes": [...]}``."""

    def work(asked: MarkdownBody) -> dict[str, Any]:
        return {"nodes": renderer.nodes(asked.content)}

    return json_endpoint(MarkdownBody, work, bodies)
