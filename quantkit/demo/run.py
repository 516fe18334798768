"""The demo: builds the embedded model, then asks the base and the built file the same questions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.demo.data import ADAPTER, BASE, EXAMPLES
from quantkit.errors import VerificationError
from quantkit.files.json_file import SCHEMA
from quantkit.hub.adapter_source import AdapterSource
from quantkit.jobs.build import build
from quantkit.jobs.recipe import Recipe
from quantkit.system.child_process import run_module
from quantkit.system.progress import Reporter
from quantkit.system.temporary import temporary_folder

NAME = "quantkit-demo"


@dataclass(frozen=True)
class Pair:
    """A question, the greedy answers of base and built file, and the answers they were trained to give."""

    question: str
    base: str
    adapted: str
    expected_base: str
    expected_adapted: str

    @property
    def right(self) -> bool:
        """Whether both answers are the trained ones."""
        return (self.base, self.adapted) == (self.expected_base, self.expected_adapted)


@dataclass(frozen=True)
class DemoResult:
    """The result of the demo.

    Attributes:
        folder: the built package.
        file: the GGUF file that answered, quantized to q4_0.
        pairs: the questions.
        build_seconds: time of the build with its checks.
    """

    folder: Path
    file: str
    pairs: tuple[Pair, ...]
    build_seconds: float

    @property
    def matching(self) -> int:
        """Questions answered as trained, by base and built file."""
        return sum(pair.right for pair in self.pairs)

    def check(self) -> None:
        """Check that every answer is right.

        Raises:
            VerificationError: names the first question with another answer.
        """
        for pair in self.pairs:
            if not pair.right:
                raise VerificationError(
                    f"{self.folder / self.file}: the answer to {pair.question!r} is {pair.adapted!r} (base: "
                    f"{pair.base!r}), but must be {pair.expected_adapted!r} (base: {pair.expected_base!r})"
                )

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        pairs = [asdict(pair) for pair in self.pairs]
        return {
            "schema": SCHEMA,
            "folder": str(self.folder),
            "file": self.file,
            "matching": self.matching,
            "pairs": pairs,
            "build_seconds": round(self.build_seconds, 3),
        }


def run_demo(folder: Path, *, overwrite: bool = False, reporter: Reporter | None = None) -> DemoResult:
    """Build the embedded base with its adapter in *folder*, and compare answers.

    Args:
        folder: the folder to make, with q4_0 and q8_0 files.
        overwrite: whether an existing folder may be replaced.
        reporter: receives the progress.

    Raises:
        QuantkitError: the build failed.
    """
    recipe = Recipe(model=BASE, adapters=(AdapterSource(ADAPTER),), quants=("q4_0", "q8_0"), out=folder, name=NAME)
    result = build(recipe, overwrite=overwrite, reporter=reporter)
    file = result.plan.outputs[0].file
    questions = [example.question for example in EXAMPLES]
    with temporary_folder() as temporary:
        base_folder = temporary / "base"
        base = build(Recipe(model=BASE, quants=("q4_0",), out=base_folder, name="base"), verify=False)
        base_answers = _ask(base.folder / base.plan.outputs[0].file, questions)
    answers = _ask(result.folder / file, questions)
    pairs = tuple(
        Pair(example.question, base_answer, answer, example.base_answer, example.adapted_answer)
        for example, base_answer, answer in zip(EXAMPLES, base_answers, answers, strict=True)
    )
    return DemoResult(result.folder, file, pairs, sum(result.seconds.values()))


def _ask(gguf: Path, questions: list[str]) -> list[str]:
    """Return greedy answers, each from a new conversation. In another process: this one has torch, see dry_run.py."""
    prompts = [part for text in questions for part in ("--prompt", text)]
    done = run_module("quantkit", ["smoke", str(gguf), "--json", *prompts])
    try:
        (model,) = json.loads(done.stdout)["models"]
    except ValueError:
        raise VerificationError(f"{gguf}: {done.stderr.decode(errors='replace').strip()[-400:]}") from None
    return [answer["text"] for answer in model["answers"]]
