"""Every GGUF file of a package loaded and talked to, its tokens and prompts compared with the model's own.

Each file is checked in a process of its own. llama.cpp ends its process when an assertion fails, and a file that makes
it do so must be a failed check, not a dead build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.system.child_process import ChildError, ask_module
from quantkit.system.progress import Reporter
from quantkit.verify.origin import Origin
from quantkit.verify.report import Check, Report, crashed


@dataclass(frozen=True)
class Request:
    """What a checking process is asked.

    Attributes:
        gguf: the file.
        origin: what to compare tokens and prompts with.
        expected: prompts kept from a build, to compare with where there is no origin.
        system: the package's system prompt.
        stops: texts that end a turn.
        threads: CPU threads, None for the processors this process may use.
    """

    gguf: Path
    origin: Origin | None = None
    expected: Sequence[Mapping[str, Any]] = ()
    system: str | None = None
    stops: Sequence[str] = ()
    threads: int | None = None

    @property
    def comparisons(self) -> list[str]:
        """The checks that are made of a file that chats."""
        asked = {
            "end of turn ends": self.stops,
            "token ids of single texts": self.origin,
            "prompt ids": self.origin or self.expected,
        }
        return [name for name, given in asked.items() if given]


def verify_outputs(
    ggufs: Sequence[Path],
    *,
    origin: Origin | None,
    expected: Sequence[Mapping[str, Any]] = (),
    system: str | None = None,
    stops: Sequence[str] = (),
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Smoke-test each file, and compare its prompts; token ids once: all files of a package carry the same vocabulary.

    Args:
        ggufs: the files.
        origin: what to compare with, None where it is not there.
        expected: prompts kept from a build, for want of an origin.
        system: the package's system prompt.
        stops: texts that end a turn.
        threads: CPU threads, None for the processors this process may use.
        reporter: told of the progress.

    Raises:
        QuantkitError: what to compare with cannot be read.
    """
    reporter = reporter or Reporter()
    checks: list[Check] = []
    runs, not_made = {}, []
    with reporter.phase("checking", len(ggufs), "files") as progress:
        for gguf in ggufs:
            request = Request(gguf, origin, expected, system, stops, threads)
            answer = ask_process(request)
            checks += [replace(Check(**check), name=f"{gguf.name}: {check['name']}") for check in answer["checks"]]
            runs[gguf.name] = answer["summary"]
            if answer["expected"]:  # the tokenizer need not be asked again
                origin, expected = None, answer["expected"]
            if request.comparisons and not answer["compared"]:
                not_made.append(f"{gguf.name}: {', '.join(request.comparisons)}: a check before failed")
            progress(1)
    return Report(tuple(checks), runs, tuple(not_made), tuple(expected))


def ask_process(request: Request) -> dict[str, Any]:
    """Check one file in a process of its own.

    Returns:
        ``checks``, a ``summary`` in one line, ``expected``, the prompts that were compared with, and whether it came to
        be ``compared`` with anything: not after a check that failed before.

    Raises:
        QuantkitError: what to compare with cannot be read.
    """
    origin = request.origin
    question = {
        "gguf": str(request.gguf),
        "origin": origin
        and {"tokenizer": str(origin.tokenizer), "template": origin.template, "special": dict(origin.special)},
        "expected": [dict(one) for one in request.expected],
        "system": request.system,
        "stops": list(request.stops),
        "threads": request.threads,
    }
    try:
        answer: dict[str, Any] = ask_module("quantkit.verify.worker", question)
    except ChildError as error:
        summary = f"FAILED: the process that checked it ended with {error.how}"
        return {"checks": [vars(crashed(error))], "summary": summary, "expected": [], "compared": False}
    return answer
