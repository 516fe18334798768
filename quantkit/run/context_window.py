"""Chooses which part of a long conversation the model sees: context shifting that says what it does.

When a question no longer fits, the oldest exchanges are left out, but never the system prompt. llama.cpp's own shifting
(it removes tokens from the cache and renumbers the rest) was rejected: it leaves half a turn that no template wrote,
and the model was not trained on that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

from quantkit.errors import ContextFullError
from quantkit.run.context_size import larger_context
from quantkit.run.session import ChatModel, Messages
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

    def tokens(first: int) -> int:
        return model.prompt_size(conversation.asking(question, forgotten=2 * first), told)

    first = first_that_fits(model, held, tokens, longest)
    conversation.forgotten = 2 * first
    return first - held[0]


def visible_messages(
    model: ChatModel, messages: Messages, *, longest: int | None, told: Mapping[str, Any]
) -> tuple[Messages, int]:
    """As :func:`make_room`, for messages that end with a question: those that fit, and how many were dropped.

    The system messages at the beginning stay, and what stays of the others begins with a message of the user.

    Raises:
        ContextFullError: what is behind the last message of the user does not fit.
        ChatFormatError: the template rejects the conversation.
    """
    opening = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
    begins = [at for at, message in enumerate(messages) if message["role"] == "user" and at > opening]

    def kept(first: int) -> Messages:
        return messages if first == 0 else [*messages[:opening], *messages[begins[first - 1] :]]

    def tokens(first: int) -> int:
        return model.prompt_size(kept(first), told)

    left = kept(first_that_fits(model, range(len(begins) + 1), tokens, longest))
    return left, len(messages) - len(left)


def first_that_fits(model: ChatModel, held: range, tokens: Callable[[int], int], longest: int | None) -> int:
    """The first exchange that the model sees, of those that it has seen so far.

    Args:
        model: whose context it is.
        held: the exchanges; the last number is the question's.
        tokens: the size of the prompt that begins with an exchange.
        longest: the longest answer in tokens, None for no limit.

    Raises:
        ContextFullError: the question alone does not fit.
    """
    most = model.n_ctx // 4
    fits = model.n_ctx - (most if longest is None else min(longest, most))
    if tokens(held[0]) <= fits:
        return held[0]
    # The last exchange should stay if it fits.
    first = held[bisect_left(held[:-1], True, key=lambda at: tokens(at) <= model.n_ctx // 2)]
    if first == held[-1]:
        first = held[bisect_left(held[:-1], True, key=lambda at: tokens(at) <= fits)]
    if (needed := tokens(first)) >= model.n_ctx:
        raise ContextFullError(
            f"the question with its system prompt is {needed} tokens long, and the context holds {model.n_ctx}",
            hint=f"shorten it{larger_context(model.engine, needed)}",
        )
    return first
