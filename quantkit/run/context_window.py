"""Chooses which part of a long conversation the model sees: context shifting that says what it does.

When a question no longer fits, the oldest exchanges are left out, but never the system prompt. llama.cpp's own shifting
(it removes tokens from the cache and renumbers the rest) was rejected: it leaves half a turn that no template wrote,
and the model was not trained on that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from quantkit.errors import ContextFullError
from quantkit.run.session import ChatModel
from quantkit.run.transcript import Conversation


def make_room(
    model: ChatModel,
    conversation: Conversation,
    question: str,
    *,
    longest: int | None,
    told: Mapping[str, Any] | None = None,
) -> int:
    """Drop the oldest exchanges if a question and its answer do not fit otherwise.

    A quarter of the context is reserved for the answer. More is dropped than needed, until half of the context is free:
    the rest has to be evaluated again, and that should not happen at every question.

    Args:
        model: counts the tokens.
        conversation: the messages so far; its ``forgotten`` is increased.
        question: the next question.
        longest: the longest answer in tokens, None for no limit.
        told: variables of the chat template.

    Returns:
        The number of exchanges dropped.

    Raises:
        ContextFullError: the question alone does not fit. Nothing is dropped then.
        ChatFormatError: the template rejects the conversation.
    """
    held = range(conversation.forgotten // 2, len(conversation.turns) // 2 + 1)
    most = model.n_ctx // 4

    def tokens(first: int) -> int:
        return model.prompt_size(conversation.asking(question, forgotten=2 * first), told)

    fits = model.n_ctx - (most if longest is None else min(longest, most))
    if tokens(held[0]) <= fits:
        return 0
    # The last exchange should stay if it fits.
    first = held[bisect_left(held[:-1], True, key=lambda at: tokens(at) <= model.n_ctx // 2)]
    if first == held[-1]:
        first = held[bisect_left(held[:-1], True, key=lambda at: tokens(at) <= fits)]
    if (needed := tokens(first)) >= model.n_ctx:
        raise ContextFullError(
            f"the question with its system prompt is {needed} tokens long, and the context holds {model.n_ctx}",
            hint=f"shorten it, or start with a larger context: --param num_ctx={2 * needed}",
        )
    conversation.forgotten = 2 * first
    return first - held[0]
