"""GGUF files by quantkit's reader and by llama.cpp's: what llama.cpp crashes on is refused before it sees it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from quantkit.errors import QuantkitError
from quantkit.gguf.model import read_whole_model
from tests.support.fuzz.gguf_parts import PartsMutator, framed, placed, split
from tests.support.fuzz.mutate_gguf import GgufMutator
from tests.support.fuzz.tiny_gguf import KEYS, NAMES, TEXTS, models

ROOT = Path(__file__).resolve().parents[3]
# Another array of the vocabulary, or another hyperparameter, in most cases one alone.
_MUTATOR = GgufMutator(KEYS, TEXTS, NAMES, steps=(1, 1, 1, 1, 2))
_OF_PARTS = PartsMutator(_MUTATOR)
_PLACE = re.compile(r"[\w./-]+\.(?:cpp|h|c):\d+")


@dataclass(frozen=True)
class Answer:
    """What llama.cpp made of a file.

    Attributes:
        ended: 0 it loaded, 1 it was refused, a negative number the signal that ended the process.
        said: the last lines of its log.
    """

    ended: int
    said: tuple[str, ...]

    @property
    def crash(self) -> str:
        """The crash in a few words, the same for the same place in llama.cpp; empty for none."""
        if self.ended >= 0:
            return ""
        place = next((found[0] for line in self.said if (found := _PLACE.search(line))), "")
        return f"{signal.Signals(-self.ended).name} {place.rpartition('/')[2]}".strip()


@dataclass(frozen=True)
class Case:
    """A file, and how both readers answered.

    Attributes:
        number: of the case; with the seed it makes the same bytes again.
        data: the file, or its parts (:mod:`tests.support.fuzz.gguf_parts`).
        refused: why quantkit refuses it; None if it does not.
        answer: llama.cpp's.
    """

    number: int
    data: bytes
    refused: str | None
    answer: Answer

    @property
    def finding(self) -> bool:
        """Whether llama.cpp crashes on what quantkit takes."""
        return self.refused is None and bool(self.answer.crash)


@dataclass
class Counts:
    """A summary of cases."""

    kinds: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)

    def add(self, case: Case) -> None:
        """Count a case."""
        ours = "taken" if case.refused is None else "refused"
        theirs = "crashes" if case.answer.crash else "refuses" if case.answer.ended else "loads"
        self.kinds[f"{ours}, llama.cpp {theirs}"] += 1
        if case.answer.crash:
            self.crashes[f"{ours}, {case.answer.crash}"] += 1

    def table(self) -> str:
        """A Markdown table: how often, and each place in llama.cpp where it crashed."""
        rows = [*self.kinds.most_common(), *self.crashes.most_common()]
        return "\n".join(
            ["| quantkit, llama.cpp | files |", "| --- | ---: |", *(f"| {what} | {n:,} |" for what, n in rows)]
        )


@contextmanager
def llama() -> Iterator[Callable[[bytes], Answer]]:
    """llama.cpp's answers to files, from one process."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        command = [sys.executable, "-m", "tests.support.fuzz.llama_child", place]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]

            def ask(data: bytes) -> Answer:
                process.stdin.write(f"{placed(data, Path(place))}\n")
                process.stdin.flush()
                found = json.loads(process.stdout.readline())
                return Answer(found["ended"], tuple(found["said"]))

            yield ask
            process.stdin.close()


def refusal(data: bytes, folder: Path) -> str | None:
    """Why quantkit does not take a file, which is put below *folder*, as a model; None if it does."""
    try:
        read_whole_model(placed(data, folder))
    except QuantkitError as error:
        return str(error)
    return None


def changed(seed: int, number: int) -> bytes:
    """The file of a case: one of the small models with a change or two; or the parts of one, as one input."""
    random = Random(f"{seed} {number}")
    sound = models()
    which = number % (len(sound) + 1)
    if which < len(sound):
        return _MUTATOR(sound[which], random)
    return _OF_PARTS(in_parts(random.choice(sound)), random)


def in_parts(model: bytes) -> bytes:
    """A small model in three parts, as one input."""
    return framed(split(model, (1, 4, 3)))


def cases(seed: int, numbers: range) -> Iterator[Case]:
    """Ask both readers about changed files."""
    with llama() as ask, tempfile.TemporaryDirectory() as place:
        for number in numbers:
            data = changed(seed, number)
            yield Case(number, data, refusal(data, Path(place)), ask(data))
