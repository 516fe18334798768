"""A smoke test in a process of its own, where llama.cpp may crash: that is a failed check, and not the end of us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.run.session import GenerationStats
from quantkit.system.child_process import ChildError, answer_module, ask_module
from quantkit.verify.report import Check, crashed
from quantkit.verify.smoke import Answer, SmokeResult, smoke_test


def smoke_test_apart(gguf: Path, *, n_gpu_layers: int, prompts: Sequence[str], system: str | None) -> SmokeResult:
    """As :func:`quantkit.verify.smoke.smoke_test`."""
    question = {"gguf": str(gguf), "n_gpu_layers": n_gpu_layers, "prompts": list(prompts), "system": system}
    try:
        found = ask_module("quantkit.verify.smoke_apart", question)
    except ChildError as error:
        return SmokeResult(gguf, (crashed(error),))
    answers = [Answer(**{**answer, "stats": GenerationStats(**answer["stats"])}) for answer in found["answers"]]
    checks = [Check(**check) for check in found["checks"]]
    return SmokeResult(gguf, tuple(checks), found["load_seconds"], found["offloaded"], tuple(answers))


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    gguf = Path(question.pop("gguf"))
    return {**asdict(smoke_test(gguf, **question)), "gguf": str(gguf)}


if __name__ == "__main__":
    answer_module(_answer)
