"""What of a long conversation the model is given: context shifting that says what it does.

When a question has no room any more, the oldest exchanges are left out, the system prompt never. llama.cpp's own
shifting (cutting tokens out of its memory and renumbering the rest) was rejected: what is left is half a turn that no
template wrote, and the model was not trained on that.
"""

from __future__ import annotations

from bisect import bisect_left

from quantkit.errors import ContextFullError
from quantkit.run.session import ChatModel
from quantkit.run.transcript import Conversation


def make_room(model: ChatModel, conversation: Conversation, question: str, *, longest: int | None) -> int:
    """Forget the oldest exchanges if a question and its answer have no room otherwise.

    A quarter of the context is kept for an answer. What must go is more than needed, so that half of the context is
    free: what follows has to be evaluated anew, and that should not happen with every question.

    Args:
        model: counts the tokens.
        conversation: what was said; its ``forgotten`` is moved on.
        question: what comes next.
        longest: the longest answer in tokens, None for any.

    Returns:
        How many exchanges were forgotten.

    Raises:
        ContextFullError: the question does not fit even by itself. Nothing is forgotten then.
        ChatFormatError: the template refuses the conversation.
    """
    held = range(conversation.forgotten // 2, len(conversation.turns) // 2 + 1)
    most = model.n_ctx // 4

    def tokens(first: int) -> int:
        return len(model.prompt_tokens(conversation.asking(question, forgotten=2 * first)))

    fits = model.n_ctx - (most if longest is None else min(longest, most))
    if tokens(held[0]) <= fits:
        return 0
    # At least the last exchange should stay, if it can.
    first = held[bisect_left(held[:-1], True, key=lambda at: tokens(at) <= model.n_ctx // 2)]
    if first == held[-1]:
        first = held[bisect_left(held[:-1], True, key=lambda at: tokens(at) <= fits)]
    if (needed := tokens(first)) >= model.n_ctx:
        raise ContextFullError(
            f"the question has {needed} tokens with all that belongs to it, and the context holds {model.n_ctx}",
            hint=f"shorten it, or start with a larger context: --param num_ctx={2 * needed}",
        )
    conversation.forgotten = 2 * first
    return first - held[0]
