"""The process that checks one GGUF file: a question as JSON on stdin, the answer as JSON on stdout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.run.session import ChatModel
from quantkit.system.child_process import answer_module
from quantkit.verify.encoders import open_encoder
from quantkit.verify.origin import Origin
from quantkit.verify.prompts import Expected, check_prompts, check_stops, expect, read_expected
from quantkit.verify.report import Check
from quantkit.verify.smoke import SmokeResult, smoke_test
from quantkit.verify.tokens import compare_tokens


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Smoke-test the file, and compare its tokens and prompts with what they are known to be.

    Args:
        question: as :func:`quantkit.verify.models.ask_process` puts it.
    """
    expected: list[Expected] = []
    compared = False

    def further(model: ChatModel) -> Iterator[Check]:
        nonlocal compared
        compared = True
        if question["stops"]:
            yield check_stops(model, question["stops"])
        source = "the build"
        if question["origin"]:
            origin = Origin(**{**question["origin"], "tokenizer": Path(question["origin"]["tokenizer"])})
            source, encoder = origin.tokenizer.name, open_encoder(origin.tokenizer)
            yield compare_tokens(model, encoder, source)
            expected.extend(expect(origin, encoder, model, question["system"]))
        elif question["expected"]:
            expected.extend(read_expected(question["expected"]))
        if expected:
            yield from check_prompts(model, expected, source)

    result = smoke_test(
        Path(question["gguf"]),
        system=question["system"],
        threads=question["threads"],
        further=lambda model: list(further(model)),
    )
    return {
        "checks": [asdict(check) for check in result.checks],
        "summary": summary(result),
        "expected": [one.to_json() for one in expected],
        "compared": compared,
    }


def summary(result: SmokeResult) -> str:
    """One line of figures."""
    if not result.passed:
        return "FAILED: " + ", ".join(check.name for check in result.checks if not check.passed)
    ended = ", ".join(answer.ended for answer in result.answers)
    return (
        f"loaded in {result.load_seconds:.2f} s, prompt {result.prompt_rate:.0f} tokens/s, "
        f"generation {result.generation_rate:.1f} tokens/s, layers on the GPU {result.offloaded}, answer ended {ended}"
    )


if __name__ == "__main__":
    answer_module(answer)
