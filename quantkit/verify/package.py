"""The checks of a build: every GGUF file loaded and talked to, its tokens compared with the model's own tokenizer.

Each file is checked in a process of its own. llama.cpp ends its process when an assertion fails, and a file that makes
it do so must be a failed check, not a dead build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.child import ChildError, ask_module
from quantkit.progress import Reporter
from quantkit.verify.report import Check, Report


@dataclass(frozen=True)
class Request:
    """What a checking process is asked.

    Attributes:
        gguf: the file.
        tokenizer: the tokenizer's file to compare token ids with, None to leave that out.
        system: the package's system prompt.
        threads: CPU threads, None for the processors this process may use.
    """

    gguf: Path
    tokenizer: Path | None
    system: str | None
    threads: int | None


def verify_outputs(
    ggufs: Sequence[Path],
    *,
    tokenizer: Path | None,
    system: str | None = None,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Smoke-test each file, and compare token ids once: all files of a build carry the same vocabulary.

    Args:
        ggufs: the files.
        tokenizer: the file to compare token ids with, None where there is none.
        system: the package's system prompt.
        threads: CPU threads, None for the processors this process may use.
        reporter: told of the progress.
    """
    reporter = reporter or Reporter()
    checks: list[Check] = []
    runs = {}
    with reporter.phase("checking", len(ggufs), "files") as progress:
        for index, gguf in enumerate(ggufs):
            answer = ask_process(Request(gguf, tokenizer if index == 0 else None, system, threads))
            checks += [replace(Check(**check), name=f"{gguf.name}: {check['name']}") for check in answer["checks"]]
            runs[gguf.name] = answer["summary"]
            progress(1)
    return Report(tuple(checks), runs)


def ask_process(request: Request) -> dict[str, Any]:
    """Check one file in a process of its own.

    Returns:
        ``checks``, and a ``summary`` in one line.
    """
    question = {
        "gguf": str(request.gguf),
        "tokenizer": str(request.tokenizer) if request.tokenizer else None,
        "system": request.system,
        "threads": request.threads,
    }
    try:
        answer: dict[str, Any] = ask_module("quantkit.verify.worker", question)
    except ChildError as error:
        check = Check("llama.cpp runs", False, error.how, "the process ends well", error.output)
        return {"checks": [vars(check)], "summary": f"FAILED: the process that checked it ended with {error.how}"}
    return answer
