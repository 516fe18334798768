"""The process that runs chat templates.

It has limits that the sandbox cannot enforce: nested loops can run for days, and a short expression can make a string
of gigabytes.
"""

from __future__ import annotations

import atexit
import os
from typing import Any

from quantkit.errors import ChatFormatError
from quantkit.system.limited_process import LimitedProcess, Limits

_LIMITS = Limits()
"""Describing the slowest real template takes 0.1 s and 32 MB."""

_HINT = (
    "the template is broken or hostile; build from the checkpoint with the chat format that the model was trained on: "
    "quantkit build MODEL --template NAME"
)


class TemplateLimitError(ChatFormatError):
    """A chat template was stopped at one of its limits."""

    default_hint = _HINT


class TemplateProcess(LimitedProcess):
    """Asks the process; :mod:`quantkit.chat_template.worker` answers."""

    def __init__(self, limits: Limits = _LIMITS) -> None:
        super().__init__(
            "quantkit.chat_template.worker", subject="the chat template", error=TemplateLimitError, limits=limits
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer of :func:`quantkit.chat_template.worker.answer`.

        Raises:
            TemplateLimitError: the template was stopped, or crashed its process.
        """
        reply = super().ask(question)
        if reply.get("limit") == "text":
            raise TemplateLimitError("the chat template writes a prompt that is too long for any model")
        return reply


_shared = TemplateProcess()
atexit.register(_shared.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.forget)


def shared_process() -> TemplateProcess:
    """The process-wide instance."""
    return _shared
