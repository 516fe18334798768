"""The process that checks one GGUF file, from outside: its request and its result.

llama.cpp aborts its process when an assertion fails. A file that causes this must fail a check, not crash the build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.gguf.lora import ScaledLora
from quantkit.run.generation_stats import GenerationStats
from quantkit.system.child_process import ChildError, follow_module
from quantkit.system.progress import Reporter
from quantkit.verify.expected import Expected, read_expected
from quantkit.verify.origin import Origin
from quantkit.verify.report import Check, crashed
from quantkit.verify.smoke_result import Answer, SmokeResult

WORKER = "quantkit.verify.worker"

STEPS = 8
"""How often the process says that it is done with a part of the checks, where all are made."""


@dataclass(frozen=True)
class Request:
    """A request to the process.

    Attributes:
        gguf: the file.
        system: the system prompt of every conversation, None for none.
        n_gpu_layers: layers to put on the GPU, -1 for all.
        threads: CPU threads, None for the processors that are free.
        questions: questions for the model; a greeting if there are none.
        stops: stop sequences that end a turn.
        loras: LoRA files that belong to the model.
        origin: what to compare tokens and prompts with.
        expected: prompts saved by a build, to compare with if there is no origin.
    """

    gguf: Path
    system: str | None = None
    n_gpu_layers: int = -1
    threads: int | None = None
    questions: Sequence[str] = ()
    stops: Sequence[str] = ()
    loras: Sequence[ScaledLora] = ()
    origin: Origin | None = None
    expected: Sequence[Expected] = ()

    @property
    def comparisons(self) -> list[str]:
        """The names of the checks that follow if the file chats."""
        asked = {
            "stops at end of turn": self.stops,
            "token ids of single texts": self.origin,
            "prompt token ids": self.origin or self.expected,
        }
        return [name for name, given in asked.items() if given]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "gguf": str(self.gguf),
            "system": self.system,
            "n_gpu_layers": self.n_gpu_layers,
            "threads": self.threads,
            "questions": list(self.questions),
            "stops": list(self.stops),
            "loras": [(str(lora.path), lora.scale) for lora in self.loras],
            "origin": self.origin and self.origin.to_json(),
            "expected": [one.to_json() for one in self.expected],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Request:
        """Read what :meth:`to_json` wrote.

        Raises:
            VocabularyError: the prompts saved by a build are damaged.
        """
        origin = values["origin"] and Origin.from_json(values["origin"])
        expected = read_expected(values["expected"])
        loras = tuple(ScaledLora(Path(path), scale) for path, scale in values["loras"])
        fresh = {"gguf": Path(values["gguf"]), "loras": loras, "origin": origin, "expected": expected}
        return cls(**{**values, **fresh})


@dataclass(frozen=True)
class Result:
    """The result of the process.

    Attributes:
        smoke: the smoke test, including the checks of the comparisons.
        expected: the expected prompts.
        compared: whether tokens and prompts were compared: not if an earlier check failed.
        crash: how the process ended if it crashed, such as ``signal SIGABRT``.
    """

    smoke: SmokeResult
    expected: tuple[Expected, ...] = ()
    compared: bool = False
    crash: str = ""

    @property
    def summary(self) -> str:
        """One line on how it ran."""
        return f"FAILED: the process that checked it ended with {self.crash}" if self.crash else self.smoke.summary

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "smoke": {**asdict(self.smoke), "gguf": str(self.smoke.gguf)},
            "expected": [one.to_json() for one in self.expected],
            "compared": self.compared,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Result:
        """Read what :meth:`to_json` wrote."""
        smoke = values["smoke"]
        answers = [Answer(**{**answer, "stats": GenerationStats(**answer["stats"])}) for answer in smoke["answers"]]
        checks = [Check(**check) for check in smoke["checks"]]
        fresh = {"gguf": Path(smoke["gguf"]), "checks": tuple(checks), "answers": tuple(answers)}
        return cls(SmokeResult(**{**smoke, **fresh}), read_expected(values["expected"]), values["compared"])


def check_file(request: Request, reporter: Reporter | None = None, doing: str = "checking") -> Result:
    """Check one file in a separate process; if it crashes, that is a failed check.

    Args:
        request: the file, and how to check it.
        reporter: receives the progress.
        doing: what the progress is called.

    Raises:
        QuantkitError: what to compare with cannot be read, or a question is not valid Unicode.
    """
    try:
        with (reporter or Reporter()).phase(doing, STEPS, "steps") as advance:
            return Result.from_json(follow_module(WORKER, request.to_json(), advance, patient=False))
    except ChildError as error:
        return Result(SmokeResult(request.gguf, (crashed(error),)), crash=error.how)


def checking(number: int, files: int) -> str:
    """What the progress of one of several files is called."""
    return f"checking {number} of {files} files" if files > 1 else "checking"
