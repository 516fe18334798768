"""How a chat template opens an answer: after a question, and where an earlier answer begins.

A model continues the prompt. If the prompt ends with the question, the model writes the header of its own turn into the
answer; if it ends with a placeholder that someone forgot to fill, the model never saw such a text. Neither is an error
that a short test shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.chat_template.probe import without_cut_mark
from quantkit.chat_template.sandbox import render_undated
from quantkit.errors import ChatFormatError
from quantkit.system.overlap import common_start

_QUESTION, _ANSWER, _NEXT = "SentinelQuestion", "SentinelAnswer", "SentinelSecond"
# A name in braces: what is left of a template or a format string that was not filled.
_PLACEHOLDER = re.compile(r"\{+\s*[A-Za-z_][\w.\[\]'\"]*\s*\}+")


@dataclass(frozen=True)
class Opening:
    """The texts that open an answer.

    Attributes:
        asked: the end of a prompt, after the end of the question.
        past: the text before an earlier answer, after the end of the question.
    """

    asked: str
    past: str


def find_opening(template: str, *, bos_token: str, eos_token: str) -> Opening:
    """Find the texts, inside the process for templates.

    Args:
        template: the Jinja text.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.

    Raises:
        ChatFormatError: the template refuses a plain conversation, or does not write it as it is.
    """

    def write(contents: Sequence[str], *, asked: bool) -> str:
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
        tokens = {"bos_token": bos_token, "eos_token": eos_token}
        return render_undated(template, messages, **tokens, add_generation_prompt=asked)

    tail, closing = (write([_QUESTION], asked=asked).rpartition(_QUESTION)[2] for asked in (True, False))
    between = re.search(f"{_QUESTION}(.*?){_ANSWER}", write([_QUESTION, _ANSWER, _NEXT], asked=True), re.DOTALL)
    if between is None:
        raise ChatFormatError("the chat template leaves out an earlier answer")
    end = common_start(tail, between[1], closing)
    end = end if end == closing else without_cut_mark(end)
    return Opening(tail[len(end) :], between[1][len(end) :])


def opening_fault(opening: Opening) -> str:
    """What is wrong with how an answer is opened; "" if nothing is."""
    asked, past = opening.asked, opening.past
    if placeholder := _PLACEHOLDER.search(asked):
        return f"opens an answer with a placeholder, {placeholder.group()!r} in {asked!r}" + (
            "" if _PLACEHOLDER.search(past) or not past.strip() else f", but past answers with {past!r}"
        )
    if not past.strip():
        return ""
    if not asked.strip():
        return f"ends after the question: it opens no answer, but past answers with {past!r}"
    if not common_start(asked, past).strip():
        return f"opens an answer with {asked!r}, but past answers with {past!r}"
    return ""
