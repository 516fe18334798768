"""The texts that end an answer.

Most templates close an answer with a mark. Some write nothing behind it (GLM): the model then ends its answer with the
mark that opens the next turn, the user's or that of a tool's result, and the end-of-sequence token is for texts
without turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantkit.chat_template.render import Message
from quantkit.errors import ChatFormatError

_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_QUESTION, _ANSWER, _RESULT = "SentinelQuestion", "SentinelAnswer", "SentinelResult"


@dataclass(frozen=True)
class Around:
    """What a template writes around a past answer.

    Attributes:
        closing: behind it, where no further answer is asked for.
        back: between it and the next question.
        after: what the two have in common.
        opening: before the first question.
    """

    closing: str
    back: str
    after: str
    opening: str


def answer_ends(around: Around, eos_token: str, write: Callable[[Sequence[Message]], str]) -> tuple[str, ...]:
    """The texts that end an answer; the first one ends it before a question.

    Args:
        around: what is written around a past answer.
        eos_token: text of the model's end-of-sequence token, "" if it has none.
        write: renders a conversation.

    Raises:
        ChatFormatError: there is none.
    """
    ends = [_closing_mark(around.after, eos_token)]
    mark = _MARK.match(around.back.strip())
    if not around.after.strip() and not around.closing.strip() and mark is not None:
        ends = [mark.group()]
        if around.opening.endswith(around.back):  # it opens the question
            ends += [*_result_mark(write), eos_token]
    found = tuple(dict.fromkeys(filter(None, ends)))
    if not found:
        raise ChatFormatError("the chat template does not end an answer, and the model has no end-of-sequence token")
    return found


def _closing_mark(after: str, eos_token: str) -> str:
    text = after.strip()
    if not text or (eos_token and text.startswith(eos_token)):
        return eos_token
    mark = _MARK.match(text)
    return mark.group() if mark else text


def _result_mark(write: Callable[[Sequence[Message]], str]) -> list[str]:
    """The mark that opens a tool's result behind an answer."""
    roles = (("user", _QUESTION), ("assistant", _ANSWER), ("tool", _RESULT))
    try:
        text = write([{"role": role, "content": content} for role, content in roles])
    except ChatFormatError:  # it has no tools
        return []
    between = re.search(f"{_ANSWER}(.*?){_RESULT}", text, re.DOTALL)
    mark = between and _MARK.match(between[1].strip())
    return [mark.group()] if mark else []
