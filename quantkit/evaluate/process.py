"""The process that evaluates one GGUF file, from outside: what it is asked, and what it found.

llama.cpp ends its process when an assertion fails: a file that causes this loses its own figures and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import QuantkitError
from quantkit.evaluate.speed import Speed
from quantkit.kernels.logit_steps import Compared
from quantkit.system.child_process import ChildError, follow_module
from quantkit.system.kept_child import KeptChild

WORKER = "quantkit.evaluate.worker"
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class TextTask:
    """The text part of a question.

    Attributes:
        ids: a .npy file of int32 tokens.
        sha256: of the tokens.
        context, chunks: how they are cut.
        logits: the file of the reference's logits, which a comparison reads and the reference writes.
    """

    ids: Path
    sha256: str
    context: int
    chunks: int
    logits: Path


@dataclass(frozen=True)
class Runner:
    """How files are run.

    Attributes:
        n_gpu_layers: layers to put on the GPU, -1 for all.
        threads: CPU threads, None for the processors that are free.
        heard: called after each chunk and each answer.
        child: a process for all questions, None for one for each.
    """

    n_gpu_layers: int = -1
    threads: int | None = None
    heard: Callable[[int], None] = lambda count: None
    child: KeptChild | None = None

    @property
    def kind(self) -> str:
        """What the last digits depend on besides the model and the text; "" for this machine."""
        return ""

    def keep(self, gguf: Path, text: TextTask | None, *, speed: bool) -> Speed | None:
        """Write a reference's logits if there is a *text*, and measure its speed.

        Raises:
            QuantkitError: it cannot be loaded or evaluated, or llama.cpp ended the process.
        """
        return self._ask(gguf, text, keep=True, speed=speed)

    def compare(self, gguf: Path, text: TextTask, out: Path, *, speed: bool) -> tuple[Compared, Speed | None]:
        """Compare a file with the reference; *out* is a temporary .npz file.

        Raises:
            QuantkitError: it cannot be loaded or evaluated, or llama.cpp ended the process.
        """
        found = self._ask(gguf, text, keep=False, speed=speed, out=out)
        with np.load(out) as values:
            return Compared(**values), found

    def answer(self, gguf: Path, talks: Sequence[Messages], stops: Sequence[str], longest: int) -> list[str]:
        """The file's greedy answers.

        Raises:
            QuantkitError: it has no chat template, or llama.cpp ended the process.
        """
        talk = {"talks": [list(talk) for talk in talks], "stops": list(stops), "longest": longest}
        answers: list[str] = self._send(gguf, talk)["answers"]
        return answers

    def _ask(
        self, gguf: Path, text: TextTask | None, *, keep: bool, speed: bool, out: Path | None = None
    ) -> Speed | None:
        task = text and {
            "ids": str(text.ids),
            "tokens": text.sha256,
            "context": text.context,
            "chunks": text.chunks,
            "logits": str(text.logits),
            "keep": keep,
            "out": out and str(out),
        }
        if speed and self.child is not None:
            self.child.close()  # memory is measured in a process that has loaded nothing else
        found = self._send(gguf, {"talks": None, "text": task, "speed": speed})
        return Speed(**found["speed"]) if speed else None

    def _send(self, gguf: Path, question: dict[str, Any]) -> dict[str, Any]:
        whole = {"gguf": str(gguf), "n_gpu_layers": self.n_gpu_layers, "threads": self.threads, **question}
        try:
            found: dict[str, Any] = (
                follow_module(WORKER, whole, self.heard) if self.child is None else self.child.ask(whole, self.heard)
            )
        except ChildError as error:
            said = error.output.strip().splitlines()[-1:] or [""]
            raise QuantkitError(
                f"{gguf}: the process that evaluates it ended with {error.how}" + (f": {said[0]}" if said[0] else ""),
                hint=error.hint(f"check the file: quantkit smoke {gguf}"),
            ) from None
        return found


Runners = Callable[[Callable[[int], None]], Runner]
"""Makes a runner of what hears of chunks and answers."""
