"""``build --prove``: the proof of a build, planned with it and made after its checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from quantkit.ggml.types import UNQUANTIZED
from quantkit.jobs.prepare import PlannedBuild
from quantkit.jobs.recipe import Recipe
from quantkit.plan.values import file_name
from quantkit.prove.judged import Judged
from quantkit.prove.plan import ProofPlan, plan_proof
from quantkit.prove.proof import Material, Proof, ProvedFile, check_provable, prove_files
from quantkit.system.progress import Reporter
from quantkit.verify.encoders import tokenizer_file
from quantkit.verify.origin import Origin
from quantkit.verify.report import Report


@dataclass(frozen=True)
class BuildProof:
    """The proof of a build.

    Attributes:
        recipe: what to build so that there is an unquantized file, which is the one that can be judged.
    """

    recipe: Recipe

    def plan(self, prepared: PlannedBuild) -> ProofPlan:
        """What it takes.

        Raises:
            AdapterError: PEFT cannot apply these adapters unmerged.
        """
        return plan_proof(_judged(prepared), len(prepared.plan.models))

    def check(self, prepared: PlannedBuild) -> None:
        """See that it can be made, before any weight is read.

        Raises:
            QuantkitError: transformers does not know the model, or PEFT its adapters.
        """
        self.plan(prepared)
        check_provable(_judged(prepared))

    def prove(self, prepared: PlannedBuild, folder: Path, report: Report | None) -> Proof:
        """Prove the files of a build in *folder*, with the prompts of its *report* if it was verified."""
        models = [parts[0] for parts in prepared.plan.models]
        files = [ProvedFile(folder / output.file, output.label) for output in models]
        material = Material(
            expected=() if report is None else report.prompts,
            origin=build_origin(prepared),
            system=prepared.recipe.system,
        )
        run = prepared.run
        return prove_files(_judged(prepared), files, material, threads=run.threads, reporter=run.reporter)


def proof_of(recipe: Recipe, reporter: Reporter) -> BuildProof:
    """The proof of what a recipe builds; says which file is kept for it."""
    if recipe.keep_f16 or any(label in UNQUANTIZED for label in recipe.quants):
        return BuildProof(recipe)
    kept = file_name(recipe.name, recipe.outtype)
    reporter.note(f"{kept} is kept, because the proof judges it; quantized files differ by their rounding")
    return BuildProof(replace(recipe, keep_f16=True))


def build_origin(prepared: PlannedBuild) -> Origin | None:
    """The tokenizer and the chat template that the files have; None without a tokenizer file."""
    tokenizer = tokenizer_file(prepared.subject.tokenizer)
    template = next(entry.value for entry in prepared.plan.metadata if entry.key == "tokenizer.chat_template")
    return Origin(tokenizer, template, prepared.subject.special) if tokenizer else None


def _judged(prepared: PlannedBuild) -> Judged:
    subject = prepared.subject
    weights = (adapter.weight for adapter in prepared.recipe.adapters)
    adapters = tuple(zip(subject.adapters, weights, strict=True))
    device = prepared.run.device
    return Judged(subject.folder, adapters, "cuda:0" if device == "cuda" else device)
