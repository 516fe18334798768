"""The tokens of a text that is continued as it is, without a chat template."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from quantkit.errors import QuantkitError
from quantkit.run.context_size import context_full
from quantkit.run.interrupts import always

if TYPE_CHECKING:
    from quantkit.run.session import ChatModel


class EmptyPromptError(QuantkitError):
    """A prompt has no token, so there is nothing to continue."""

    default_hint = "write a text"


def continued_tokens(
    model: ChatModel, prompt: str | tuple[int, ...], suffix: str | None = None, go_on: Callable[[], bool] = always
) -> list[int]:
    """The tokens that are continued.

    A text begins with BOS if the file says so, and the names of special tokens in it count as these; with a suffix,
    they are plain text, and the order is prefix, suffix, middle, as in llama.cpp's server.

    Args:
        model: the model.
        prompt: a text, or tokens, which are taken as they are.
        suffix: what follows the gap that is filled, for models with :attr:`Engine.gap_tokens`.
        go_on: called from time to time; False leaves out the rest.

    Raises:
        EmptyPromptError: there is no token.
        ContextFullError: it cannot fit into the context.
        QuantkitError: a text is not valid Unicode.
    """
    if not isinstance(prompt, str):
        tokens = list(prompt)
    elif suffix is None:
        tokens = model.fitting_tokens(prompt, go_on)
    else:
        tokens = _with_gap(model, prompt, suffix)
    if not tokens:
        raise EmptyPromptError("the prompt has no token")
    return tokens


def _with_gap(model: ChatModel, prefix: str, suffix: str) -> list[int]:
    engine, gap = model.engine, model.engine.gap_tokens
    if gap is None:
        raise QuantkitError(f"{model.path.name} has no tokens for filling a gap", hint="leave out the suffix")
    for text in (prefix, suffix):
        if (least := engine.least_tokens(text)) > model.n_ctx:
            raise context_full(engine, least, least=True)
    before, behind = (engine.tokenize(text, special=False) for text in (prefix, suffix))
    bos = [engine.bos] if engine.adds_bos and engine.bos is not None else []
    return [*bos, gap[0], *before, gap[1], *behind, gap[2]]
