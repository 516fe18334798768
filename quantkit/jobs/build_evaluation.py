"""``build --evaluate``: how good is each file of a build? Compared with its unquantized file, after its checks.

That file is written in the same pass over the weights. If the package does not keep it, it lies beside the workspace
and is removed with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.evaluate.evaluate_files import evaluate_files
from quantkit.evaluate.evaluation import Evaluation, Settings
from quantkit.evaluate.files import EvaluatedFile
from quantkit.evaluate.text import Text
from quantkit.files.workspace import Workspace
from quantkit.ggml.types import UNQUANTIZED
from quantkit.jobs.evaluate import evaluation_text
from quantkit.jobs.prepare import PlannedBuild
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.vocabulary_file import unquantized_output, vocabulary_file
from quantkit.plan.values import Output, file_name


@dataclass(frozen=True)
class BuildEvaluation:
    """The evaluation of a build.

    Attributes:
        text: what the files are evaluated on.
        reference: the unquantized file, where the package does not have one: an output of the stream.
    """

    text: Text
    reference: Output | None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What the stream writes besides the package's files."""
        return () if self.reference is None else (self.reference,)

    def set_aside(self, work: Workspace) -> None:
        """Move the reference out of the package."""
        if self.reference is not None:
            os.replace(work.path / self.reference.file, work.scratch() / self.reference.file)

    def evaluate(self, prepared: PlannedBuild, work: Workspace) -> Evaluation:
        """Evaluate the files.

        Raises:
            QuantkitError: the reference cannot be evaluated.
        """
        models = [parts[0] for parts in prepared.plan.models]
        files = [EvaluatedFile(work.path / output.file, output.label, output.file, work.path) for output in models]
        reference = self._reference(prepared.recipe, files, work)
        run = prepared.run
        settings = Settings(n_gpu_layers=0 if run.device == "cpu" else -1, threads=run.threads)
        others = [file for file in files if file.path != reference.path]
        return evaluate_files(reference, others, self.text, settings=settings, reporter=run.reporter)

    def _reference(self, recipe: Recipe, files: Sequence[EvaluatedFile], work: Workspace) -> EvaluatedFile:
        if self.reference is None:
            return next(file for file in files if file.label == recipe.outtype)
        name = file_name(recipe.name, recipe.outtype)
        return EvaluatedFile(work.scratch() / self.reference.file, recipe.outtype, name)


def require_quantized(recipe: Recipe) -> None:
    """Refuse to evaluate a build that has nothing to compare.

    Raises:
        QuantkitError: no file of it is quantized.
    """
    if recipe.asked is None and all(label in UNQUANTIZED for label in recipe.quants):
        raise QuantkitError("--evaluate: no file of this build is quantized", hint="add --quant q4_k_m")


def plan_evaluation(prepared: PlannedBuild, work: Workspace, data: Path | None) -> BuildEvaluation:
    """Plan the evaluation of a build, before any weight is read.

    Args:
        prepared: the build.
        work: its workspace.
        data: the text or conversations, None for the text that comes with quantkit.

    Raises:
        QuantkitError: the data cannot be read, or is too short.
    """
    with vocabulary_file(prepared, work) as path:
        text = evaluation_text(path, data, None, None, prepared.run.reporter)
    outtype = prepared.recipe.outtype
    if any(output.label == outtype for output in prepared.plan.outputs):
        return BuildEvaluation(text, None)
    return BuildEvaluation(text, unquantized_output(prepared, f"reference-{outtype}.gguf"))
