"""``GET /metrics``: what the server has done, for Prometheus, under the names of llama.cpp's server."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.run.generation_stats import GenerationStats


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


def metrics_text(totals: Totals, requests: tuple[int, int], *, shared: bool) -> str:
    """The metrics. With *shared* the time of prompts is left out: it says what was in the context already."""
    processing, deferred = requests
    rows: list[tuple[str, str, str, float]] = [
        ("prompt_tokens_total", "counter", "Tokens of prompts.", totals.prompt_tokens),
        ("prompt_seconds_total", "counter", "Time to evaluate prompts.", totals.prompt_seconds),
        ("tokens_predicted_total", "counter", "Tokens of answers.", totals.generated_tokens),
        ("tokens_predicted_seconds_total", "counter", "Time to generate them.", totals.generation_seconds),
        ("requests_processing", "gauge", "Requests that are being answered.", processing),
        ("requests_deferred", "gauge", "Requests that wait.", deferred),
    ]
    lines = []
    for name, kind, said, value in rows:
        if not (shared and name == "prompt_seconds_total"):
            full = f"llamacpp:{name}"
            lines += [f"# HELP {full} {said}", f"# TYPE {full} {kind}", f"{full} {value:.10g}"]
    return "\n".join([*lines, ""])
