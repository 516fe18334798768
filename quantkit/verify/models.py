"""Loads every GGUF file of a package, chats with it, and compares its tokens and prompts with the model's own.

Each file is checked in a separate process, see :mod:`quantkit.verify.process`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantkit.gguf.lora import ScaledLora
from quantkit.system.progress import Reporter
from quantkit.verify.expected import Expected
from quantkit.verify.origin import Origin
from quantkit.verify.process import Request, check_file, checking
from quantkit.verify.report import Check, Report
from quantkit.verify.sight import check_sight


def verify_outputs(
    ggufs: Sequence[Path],
    *,
    origin: Origin | None,
    expected: Sequence[Expected] = (),
    mmproj: Path | None = None,
    system: str | None = None,
    stops: Sequence[str] = (),
    loras: Sequence[ScaledLora] = (),
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Smoke-test each file, and compare its prompts; token ids once, because all files have the same vocabulary.

    Args:
        ggufs: the files.
        origin: what to compare with, None if it is not available.
        expected: prompts saved by a build, used if there is no origin.
        mmproj: what they see with, shown with the first of them.
        system: the package's system prompt.
        stops: stop sequences that end a turn.
        loras: LoRA files that belong to each of them.
        threads: CPU threads, None for the processors that are free.
        reporter: receives the progress.

    Raises:
        QuantkitError: what to compare with cannot be read.
    """
    checks: list[Check] = []
    runs, not_made = {}, []
    for number, gguf in enumerate(ggufs, 1):
        request = Request(gguf, system, threads=threads, stops=stops, loras=loras, origin=origin, expected=expected)
        result = check_file(request, reporter, checking(number, len(ggufs)))
        checks += [replace(check, name=f"{gguf.name}: {check.name}") for check in result.smoke.checks]
        runs[gguf.name] = result.summary
        if result.expected:  # the tokenizer is not needed again
            origin, expected = None, result.expected
        if request.comparisons and not result.compared:
            not_made.append(f"{gguf.name}: {', '.join(request.comparisons)} (an earlier check failed)")
    if mmproj is not None:
        checks += [
            replace(check, name=f"{mmproj.name}: {check.name}") for check in check_sight(ggufs[0], mmproj, threads)
        ]
    return Report(tuple(checks), runs, tuple(not_made), tuple(expected))
