"""What is said about the size of a context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.errors import ContextFullError

if TYPE_CHECKING:
    from quantkit.run.engine import Engine


def larger_context(engine: Engine, needed: int) -> str:
    """The end of a hint: the context that a prompt of *needed* tokens asks for, if the model was trained with it."""
    if needed < engine.n_ctx_train:
        return f", or restart with a larger context: --param num_ctx={min(2 * needed, engine.n_ctx_train)}"
    return f"; the model was trained with {engine.n_ctx_train} tokens of context"


def context_note(engine: Engine) -> str:
    """A warning if the context is larger than what the model was trained with, else ""."""
    if engine.n_ctx <= engine.n_ctx_train:
        return ""
    trained = engine.n_ctx_train
    return (
        f"warning: num_ctx is {engine.n_ctx}, but the model was trained with {trained} tokens; further on, its answers "
        "may make no sense"
    )


def context_full(engine: Engine, needed: int, *, least: bool = False) -> ContextFullError:
    """The error for a conversation of *needed* tokens, or with *least* of more."""
    size = f"at least {needed}" if least else f"{needed}"
    return ContextFullError(
        f"the conversation is {size} tokens long, and the context holds {engine.n_ctx}",
        hint=f"start a new conversation{larger_context(engine, needed)}",
    )
