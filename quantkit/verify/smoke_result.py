"""The result of a smoke test, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.files.json_file import SCHEMA
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.placement import placement
from quantkit.verify.report import Check


@dataclass(frozen=True)
class Answer:
    """A question to the model and its answer.

    Attributes:
        prompt: the question.
        text: the answer.
        ended: how it ended, for people.
        stats: its statistics.
    """

    prompt: str
    text: str
    ended: str
    stats: GenerationStats


@dataclass(frozen=True)
class SmokeResult:
    """The result of a smoke test.

    Attributes:
        gguf: the file.
        checks: the checks, in order, up to the first failure after which no other check is possible.
        load_seconds: time to load, 0 if it did not load.
        offloaded: layers on the GPU, such as "33/33" or "0/3 (CPU build)"; "" if it did not load.
        answers: one for each prompt.
    """

    gguf: Path
    checks: tuple[Check, ...]
    load_seconds: float = 0.0
    offloaded: str = ""
    answers: tuple[Answer, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens evaluated per second, over all prompts."""
        seconds = sum(answer.stats.prompt_seconds for answer in self.answers)
        evaluated = sum(answer.stats.prompt_tokens - answer.stats.reused_tokens for answer in self.answers)
        return evaluated / seconds if seconds > 0 else 0.0

    @property
    def generation_rate(self) -> float:
        """Tokens generated per second, over all answers."""
        seconds = sum(answer.stats.generation_seconds for answer in self.answers)
        return sum(answer.stats.generated_tokens for answer in self.answers) / seconds if seconds > 0 else 0.0

    @property
    def summary(self) -> str:
        """The figures in one line."""
        if not self.passed:
            return "FAILED: " + ", ".join(check.name for check in self.checks if not check.passed)
        ended = ", ".join(answer.ended for answer in self.answers)
        return (
            f"loaded in {self.load_seconds:.2f} s, prompt {self.prompt_rate:.0f} tokens/s, "
            f"generation {self.generation_rate:.1f} tokens/s, {placement(self.offloaded)}, answer ended {ended}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it, with ``schema``."""
        return {
            "schema": SCHEMA,
            "gguf": str(self.gguf),
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "load_seconds": round(self.load_seconds, 4),
            "prompt_tokens_per_second": round(self.prompt_rate, 2),
            "generation_tokens_per_second": round(self.generation_rate, 2),
            "offloaded_layers": self.offloaded,
            "answers": [
                {
                    "prompt": answer.prompt,
                    "text": answer.text,
                    "ended": answer.ended,
                    "prompt_tokens": answer.stats.prompt_tokens,
                    "generated_tokens": answer.stats.generated_tokens,
                }
                for answer in self.answers
            ],
        }
