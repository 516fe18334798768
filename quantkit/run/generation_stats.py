"""Statistics of one answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationStats:
    """Statistics of one answer.

    Attributes:
        prompt_tokens: tokens in the prompt.
        prompt_seconds: time to evaluate those that were not cached.
        generated_tokens: tokens in the answer, without the one that ended it.
        generation_seconds: time to sample and evaluate them.
        stopped: the model ended the answer, with an end-of-generation token or a stop sequence.
        reused_tokens: prompt tokens that were cached, left in the context by an earlier turn.
        context_full: the answer was cut off because the context was full.
        stop_token: the end-of-generation token, None if there was none.
        limit_reached: the answer was cut off at the maximum number of tokens.
        dropped_messages: oldest messages of the conversation that the model did not see.
    """

    prompt_tokens: int
    prompt_seconds: float
    generated_tokens: int
    generation_seconds: float
    stopped: bool
    reused_tokens: int = 0
    context_full: bool = False
    stop_token: int | None = None
    limit_reached: bool = False
    dropped_messages: int = 0

    @property
    def stop_reason(self) -> str:
        """The reason the answer ended: end_of_turn, stop_text, length, context_full or interrupted."""
        if self.stopped:
            return "stop_text" if self.stop_token is None else "end_of_turn"
        if self.context_full:
            return "context_full"
        return "length" if self.limit_reached else "interrupted"

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens evaluated per second."""
        evaluated = self.prompt_tokens - self.reused_tokens
        return evaluated / self.prompt_seconds if self.prompt_seconds > 0 else 0.0

    @property
    def generation_rate(self) -> float:
        """Tokens generated per second."""
        return self.generated_tokens / self.generation_seconds if self.generation_seconds > 0 else 0.0


def rates(stats: GenerationStats, n_ctx: int) -> str:
    """One line on an answer: its length, its speed, and how much of a context of *n_ctx* tokens is used."""
    context = f"context {used(stats, n_ctx)} of {n_ctx}"
    return f"{stats.generated_tokens} tokens, {stats.generation_rate:.1f} tokens/s, {context}"


def used(stats: GenerationStats, n_ctx: int) -> int:
    """How many of *n_ctx* tokens of context are used; the last one of an answer that filled it has no place there."""
    return min(stats.prompt_tokens + stats.generated_tokens, n_ctx)
