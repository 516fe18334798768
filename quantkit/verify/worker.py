"""The process that checks one GGUF file: a question as JSON on stdin, the answer as JSON on stdout."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.run.session import ChatModel
from quantkit.verify.smoke import SmokeResult, smoke_test
from quantkit.verify.tokens import compare_tokens


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Smoke-test the file, and compare its tokens when a tokenizer is given."""
    gguf, threads = Path(question["gguf"]), question["threads"]
    result = smoke_test(gguf, system=question["system"], threads=threads)
    checks = list(result.checks)
    if question["tokenizer"] and result.passed:
        with ChatModel.load(gguf, n_gpu_layers=0, n_ctx=64, threads=threads) as model:
            checks.append(compare_tokens(model, Path(question["tokenizer"])))
    return {"checks": [asdict(check) for check in checks], "summary": summary(result)}


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
    json.dump(answer(json.load(sys.stdin)), sys.stdout, ensure_ascii=True)
