"""The proof: llama.cpp's logits of a package's files against those of transformers' own model of base and adapters.

Two processes, one after the other: one loads torch and transformers, the other libllama. This one compares what they
leave in a temporary folder, and loads neither.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import QuantkitError
from quantkit.gguf.model import read_model
from quantkit.prove.bounds import bounds, check_distance
from quantkit.prove.judged import Judged
from quantkit.prove.measure import Distance, distance
from quantkit.prove.sequences import TokenSequence, prompts
from quantkit.system.child_process import ChildError, ask_module
from quantkit.system.progress import Reporter
from quantkit.system.temporary import temporary_folder
from quantkit.verify.expected import Expected
from quantkit.verify.origin import Origin
from quantkit.verify.report import Check, crashed

_JUDGE, _FILE = "quantkit.prove.judge_worker", "quantkit.prove.file_worker"


@dataclass(frozen=True)
class ProvedFile:
    """A file to prove.

    Attributes:
        path: the file, or the first part of a split one.
        label: its type, such as ``f16``.
    """

    path: Path
    label: str


@dataclass(frozen=True)
class Material:
    """What the token sequences are made from.

    Attributes:
        expected: prompts of the conversations, if they are known.
        origin: the model's own tokenizer, for what is not known.
        system: the package's system prompt.
        texts: the user's texts, by name.
    """

    expected: Sequence[Expected] = ()
    origin: Origin | None = None
    system: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Proof:
    """The result.

    Attributes:
        checks: one for each file.
        distances: by file, what was measured; a file at which llama.cpp crashed has none.
        sequences: by name, the number of tokens compared, and how many the text has.
        by_layer: whether transformers' layers were loaded one at a time.
        device: where transformers computed.
        memory: bytes that its process had at its peak; None where the system does not say.
        seconds: of transformers, and of llama.cpp.
    """

    checks: tuple[Check, ...]
    distances: Mapping[str, Distance]
    sequences: tuple[tuple[str, int, int], ...]
    by_layer: bool
    device: str
    memory: int | None
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The proof as JSON values, for the key ``proof`` of report.json."""
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "files": {file: found.to_json() for file, found in self.distances.items()},
            "sequences": [{"name": name, "tokens": used, "of": whole} for name, used, whole in self.sequences],
            "by_layer": self.by_layer,
            "device": self.device,
            "memory": self.memory,
            "seconds": {side: round(value, 3) for side, value in self.seconds.items()},
        }


def check_provable(judged: Judged) -> None:
    """Ask transformers and PEFT whether they know the model and its adapters, before any weight is read.

    Raises:
        QuantkitError: they do not.
    """
    _ask_judge({"judged": judged.to_json(), "out": None, "threads": None, "sequences": []})


def prove_files(
    judged: Judged,
    files: Sequence[ProvedFile],
    material: Material,
    *,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Proof:
    """Compare the logits of files with those of transformers' model.

    Args:
        judged: the model with its adapters.
        files: of one package.
        material: what is compared.
        threads: CPU threads, None for the processors that are free.
        reporter: receives the progress.

    Raises:
        QuantkitError: transformers does not know the model, or cannot load it.
    """
    reporter = reporter or Reporter()
    with (
        temporary_folder() as folder,
        reporter.phase("proving", 1 + len(files), "models") as progress,
    ):
        started = time.perf_counter()
        sequences = _sequences(files[0].path, material, threads)
        given = [one.to_json() for one in sequences]
        theirs, ours = folder / "transformers.npy", folder / "llama.cpp.npy"
        judge = _ask_judge({"judged": judged.to_json(), "out": str(theirs), "threads": threads, "sequences": given})
        progress(1)
        halfway = time.perf_counter()
        checks, distances = [], {}
        for file in files:
            check, found = _prove_file(file, sequences, theirs, ours, threads)
            checks.append(check)
            if found is not None:
                distances[file.path.name] = found
            progress(1)
        return Proof(
            checks=tuple(checks),
            distances=distances,
            sequences=tuple((one.name, len(one.ids), one.whole) for one in sequences),
            by_layer=judge["by_layer"],
            device=judge["device"],
            memory=judge["memory"],
            seconds={"transformers": halfway - started, "llama.cpp": time.perf_counter() - halfway},
        )


def _prove_file(
    file: ProvedFile, sequences: Sequence[TokenSequence], theirs: Path, ours: Path, threads: int | None
) -> tuple[Check, Distance | None]:
    name = f"{file.path.name}: logits"
    given = [one.to_json() for one in sequences]
    try:
        ask_module(_FILE, {"gguf": str(file.path), "out": str(ours), "threads": threads, "sequences": given})
    except ChildError as error:
        failed = crashed(error)
        return Check(name, False, failed.figure, failed.threshold, failed.evidence), None
    mine, right = np.load(ours, mmap_mode="r"), np.load(theirs, mmap_mode="r")
    if mine.shape != right.shape:
        figure = f"{mine.shape[1]} tokens in the vocabulary"
        return Check(name, False, figure, f"{right.shape[1]}, as in transformers", "the numbers of logits differ"), None
    found = distance(mine, right, sequences)
    check = check_distance(found, bounds(file.label, experts=_has_experts(file.path)))
    return Check(name, check.passed, check.figure, check.threshold, check.evidence), found


def _has_experts(gguf: Path) -> bool:
    return any(key.endswith(".expert_count") for key in read_model(gguf).header.metadata)


def _sequences(gguf: Path, material: Material, threads: int | None) -> list[TokenSequence]:
    known = prompts(material.expected)
    if known and not material.texts:
        return known
    question = {
        "gguf": str(gguf),
        "out": None,
        "threads": threads,
        "sequences": [one.to_json() for one in known],
        "origin": material.origin and material.origin.to_json(),
        "system": material.system,
        "texts": dict(material.texts),
    }
    try:
        return [TokenSequence.from_json(one) for one in ask_module(_FILE, question)]
    except ChildError as error:
        raise QuantkitError(
            f"{gguf}: llama.cpp ended with {error.how} when it was asked for tokens",
            hint=error.hint(f"check the file: quantkit smoke {gguf}"),
        ) from None


def _ask_judge(question: dict[str, Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = ask_module(_JUDGE, question)
        return answer
    except ChildError as error:
        last = error.output.strip().splitlines()[-1:] or [""]
        raise QuantkitError(
            f"transformers cannot run {question['judged']['model']}: its process ended with {error.how}"
            + (f": {last[0]}" if last[0] else ""),
            hint=error.hint("try it with transformers' from_pretrained; without --prove the package is the same"),
        ) from None
