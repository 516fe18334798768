"""Says so if a model is absurdly slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantkit.run.session import ChatModel

_SLOW = 10.0  # tokens per second; nobody minds more
_CERTAIN = 8  # tokens, before anything is said
# Bytes of weights per second. Each token needs all of them at most, and any machine reads ten times as many.
_ABSURD = 0.5e9


def slow_note(model: ChatModel) -> str:
    """What to say of the speed of the last answer; "" for one that is fast enough, or that a GPU gave."""
    stats = model.last_stats
    if stats is None or model.offloaded_layers or stats.generated_tokens < _CERTAIN:
        return ""
    return too_slow(stats.generation_rate, model.engine.size)


def too_slow(rate: float, size: int) -> str:
    """The same for *rate* tokens per second of a model with *size* bytes of weights."""
    if rate <= 0 or rate > _SLOW or rate * size > _ABSURD:
        return ""
    return f"{rate:.1f} tokens/s is slow for this model: if other programs use the processors, try --threads 1"
