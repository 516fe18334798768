"""``GET /metrics``: what the server has done, for Prometheus, under the names of llama.cpp's server."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.run.generation_stats import GenerationStats
from quantkit.serve.turns import Load

# What says how much of a prompt was in the context already.
_TELLING = frozenset({"llamacpp:prompt_seconds_total", "quantkit:kept_sequences", "quantkit:kept_tokens"})


@dataclass(frozen=True)
class Totals:
    """Sums over all answers.

    Attributes:
        prompt_tokens: tokens of prompts, whether they were in the context already or not.
        prompt_seconds: time to evaluate prompts.
        generated_tokens: tokens of answers.
        generation_seconds: time to generate them.
    """

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    generation_seconds: float = 0.0

    def with_answer(self, stats: GenerationStats) -> Totals:
        """The sums with one more answer."""
        return Totals(
            self.prompt_tokens + stats.prompt_tokens,
            self.prompt_seconds + stats.prompt_seconds,
            self.generated_tokens + stats.generated_tokens,
            self.generation_seconds + stats.generation_seconds,
        )


def metrics_text(totals: Totals, load: Load, restarts: int, *, shared: bool) -> str:
    """The metrics. With *shared* the time of prompts is left out: it says what was in the context already."""
    busy = load.busy / load.steps if load.steps else 0.0
    rows: list[tuple[str, str, str, float]] = [
        ("llamacpp:prompt_tokens_total", "counter", "Tokens of prompts.", totals.prompt_tokens),
        ("llamacpp:prompt_seconds_total", "counter", "Time to evaluate prompts.", totals.prompt_seconds),
        ("llamacpp:tokens_predicted_total", "counter", "Tokens of answers.", totals.generated_tokens),
        ("llamacpp:tokens_predicted_seconds_total", "counter", "Time to generate them.", totals.generation_seconds),
        ("llamacpp:requests_processing", "gauge", "Requests that are being answered.", load.processing),
        ("llamacpp:requests_deferred", "gauge", "Requests that wait.", load.waiting),
        ("llamacpp:n_decode_total", "counter", "Calls of llama_decode.", load.steps),
        ("llamacpp:n_busy_slots_per_decode", "gauge", "Answers that advance in one call, on average.", busy),
        ("quantkit:slots", "gauge", "Answers that can be under way at a time.", load.slots),
        ("quantkit:kept_sequences", "gauge", "Past answers kept for later prompts.", load.kept),
        ("quantkit:kept_tokens", "gauge", "Tokens in them.", load.kept_tokens),
        ("quantkit:restarts_total", "counter", "Starts after the server was killed or crashed.", restarts),
    ]
    lines = []
    for name, kind, said, value in rows:
        if not (shared and name in _TELLING):
            lines += [f"# HELP {name} {said}", f"# TYPE {name} {kind}", f"{name} {value:.10g}"]
    return "\n".join([*lines, ""])
