"""Renders a chat template's past answers next to what its prompts open, for those who look for the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantkit.chat_template.probe import without_cut_mark
from quantkit.chat_template.sandbox import render_undated
from quantkit.system.overlap import common_start

_QUESTION = "SentinelQuestion"
USER: Mapping[str, Any] = {"role": "user", "content": _QUESTION}


@dataclass(frozen=True)
class Prober:
    """Renders conversations with a template.

    Attributes:
        template: the Jinja text.
        bos_token, eos_token: the tokens that it may write.
        told: further variables.
    """

    template: str
    bos_token: str
    eos_token: str
    told: Mapping[str, Any] = field(default_factory=dict)

    def write(self, messages: Sequence[Mapping[str, Any]], *, asked: bool = False, **told: Any) -> str:
        """The text of a conversation.

        Raises:
            ChatFormatError: the template refuses it.
        """
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return render_undated(
            self.template, messages, **tokens, add_generation_prompt=asked, told={**self.told, **told}
        )

    def behind(self, messages: Sequence[Mapping[str, Any]], *, asked: bool = False, **told: Any) -> str:
        """The text behind the question."""
        return self.write(messages, asked=asked, **told).rpartition(_QUESTION)[2]

    def opening(self, **told: Any) -> str:
        """What a prompt writes behind the question."""
        return self.behind([USER], asked=True, **told)

    def answer(self, message: Mapping[str, Any], **told: Any) -> tuple[str, str]:
        """A past answer: what a prompt opens as well, and the rest."""
        body = self.behind([USER, {"role": "assistant", **message}], **told)
        opening = self.opening(**told)
        start = common_start(opening, body)
        start = start if start in (opening, body) else without_cut_mark(start)
        return start, body[len(start) :]
