"""The checks of a build: every GGUF file loaded and talked to, its tokens compared with the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantkit.progress import Reporter
from quantkit.run.session import ChatModel
from quantkit.verify.report import Check, Report
from quantkit.verify.smoke import SmokeResult, smoke_test
from quantkit.verify.tokens import compare_tokens


def verify_outputs(
    ggufs: Sequence[Path],
    *,
    tokenizer: Path,
    system: str | None = None,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Smoke-test each file, and compare token ids once: all files of a build carry the same vocabulary.

    Args:
        ggufs: the files.
        tokenizer: the checkpoint's tokenizer.json.
        system: the package's system prompt.
        threads: CPU threads, None for the processors this process may use.
        reporter: told a line for each file.
    """
    reporter = reporter or Reporter()
    checks: list[Check] = []
    for index, gguf in enumerate(ggufs):
        result = smoke_test(gguf, system=system, threads=threads)
        checks += [replace(check, name=f"{gguf.name}: {check.name}") for check in result.checks]
        if index == 0 and result.passed:
            with ChatModel.load(gguf, n_gpu_layers=0, threads=threads) as model:
                checks.append(replace(compare_tokens(model, tokenizer), name="token ids as tokenizer.json"))
        reporter.note(f"{gguf.name}: {summary(result)}")
    return Report(tuple(checks))


def summary(result: SmokeResult) -> str:
    """One line of figures."""
    if not result.passed:
        return "FAILED: " + ", ".join(check.name for check in result.checks if not check.passed)
    ended = ", ".join(answer.ended for answer in result.answers)
    return (
        f"loaded in {result.load_seconds:.2f} s, prompt {result.prompt_rate:.0f} tokens/s, "
        f"generation {result.generation_rate:.1f} tokens/s, layers on the GPU {result.offloaded}, answer ended {ended}"
    )
