"""How a text is cut into chunks, as llama-perplexity cuts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.evaluate.figures import FEWEST
from quantkit.gguf.model import GGUFModel
from quantkit.material.tokens import Tokens

CONTEXT = 512
"""Tokens of a chunk, unless the model was trained with fewer."""
LEAST_CONTEXT = 8


@dataclass(frozen=True)
class Text:
    """A text in chunks.

    Attributes:
        tokens: the text's tokens; what is left over after the last chunk is not used.
        context: tokens of a chunk; the logits after the tokens of its second half but the last are compared.
        chunks: how many chunks.
    """

    tokens: Tokens
    context: int
    chunks: int

    @property
    def used(self) -> int:
        """Tokens that are evaluated."""
        return self.context * self.chunks

    @property
    def positions(self) -> int:
        """Positions that are compared."""
        return self.chunks * positions_of(self.context)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.tokens.name,
            "sha256": self.tokens.sha256,
            "tokens": self.used,
            "context": self.context,
            "chunks": self.chunks,
            "positions": self.positions,
        }


def positions_of(context: int) -> int:
    """Positions of a chunk that are compared."""
    return context - 1 - context // 2


def context_for(model: GGUFModel, asked: int | None) -> tuple[int, str]:
    """Tokens of a chunk, and a note if the model was trained with fewer than asked.

    Raises:
        QuantkitError: too few.
    """
    trained = model.value(f"{model.value('general.architecture', '')}.context_length", CONTEXT)
    trained = trained if isinstance(trained, int) and trained > 0 else CONTEXT
    context = min(CONTEXT, trained) if asked is None else asked
    if context < LEAST_CONTEXT:
        raise QuantkitError(f"a context of {context} tokens is too short to evaluate", hint=f"pass --ctx {CONTEXT}")
    more = f"the model was trained with {trained} tokens, and the context is {context}" if context > trained else ""
    return context, more


def cut(tokens: Tokens, context: int, chunks: int | None) -> Text:
    """Cut tokens into chunks.

    Args:
        tokens: the tokens.
        context: tokens of a chunk.
        chunks: at most so many, None for all.

    Raises:
        QuantkitError: too few tokens for figures, with how many are needed.
    """
    there = len(tokens.ids) // context
    count = there if chunks is None else min(chunks, there)
    needed = -(-FEWEST // positions_of(context))
    if count < needed:
        few = f"{len(tokens.ids)} tokens" if there < needed else f"{count} chunks"
        raise QuantkitError(
            f"{tokens.name}: {few} are too few to evaluate with a context of {context}: figures need {FEWEST} "
            f"positions, which are {needed} chunks, {needed * context} tokens",
            hint="give a longer text with --data"
            if there < needed
            else f"pass --chunks {needed} or more, or leave it out",
        )
    return Text(tokens, context, count)
