"""What a build leaves of itself in the package: the manifest, and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from quantkit.evaluate.evaluation import Evaluation
from quantkit.hub.adapter_source import AdapterSource
from quantkit.jobs.prepare import PlannedBuild
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.package.manifest import Manifest
from quantkit.package.manifest_entries import MatrixEntry
from quantkit.package.manifest_sources import SourcesEntry
from quantkit.package.ollama_modelfile import ollama_differences
from quantkit.package.plan_entries import (
    adapter_entry,
    chat_entry,
    model_entry,
    modelfile_entry,
    projector_entry,
    source_entry,
    text_entries,
    versions,
)
from quantkit.prove.proof import Proof
from quantkit.verify.report import Report
from quantkit.verify.report_file import BuildReport, OutputFigures


def build_manifest(
    prepared: PlannedBuild,
    digests: Mapping[str, Mapping[str, str]],
    texts: Sequence[Path],
    effects: tuple[AdapterEffect, ...],
    matrix: MatrixEntry | None = None,
) -> Manifest:
    """The manifest of a build.

    Args:
        prepared: the build.
        digests: by file, by tensor: sha256.
        texts: the package's text files.
        effects: what each adapter changed.
        matrix: the importance matrix that was computed for it.
    """
    recipe, subject, plan, spec = prepared.recipe, prepared.subject, prepared.plan, prepared.spec
    metadata = {entry.key: entry.value for entry in plan.metadata}
    adapters = {folder: source_entry(asked.source, folder) for asked, folder in _adapters(prepared)}
    return Manifest(
        name=spec.name,
        versions=versions(subject.libraries),
        # Devices may differ by a unit in the last place, so the one that was used is kept, not "auto".
        recipe={**recipe.to_json(), "device": prepared.workers.kind},
        sources=SourcesEntry(
            model=source_entry(recipe.model, subject.folder),
            adapters=tuple(adapters[folder] for folder in subject.adapters),
            template=None if subject.templates == subject.tokenizer else adapters.get(subject.templates),
        ),
        inputs=subject.inputs,
        models=tuple(model_entry(parts, digests) for parts in plan.models),
        adapter_files=tuple(adapter_entry(file, digests[file.output.file]) for file in subject.adapter_files),
        mmproj=projector_entry(seeing, digests[seeing.output.file]) if (seeing := subject.projector) else None,
        files=text_entries(texts),
        chat=chat_entry(spec, str(metadata["tokenizer.chat_template"])),
        modelfile=modelfile_entry(spec),
        notes=plan.notes,
        effects=effects,
        choice=plan.choice,
        imatrix=matrix,
    )


def _adapters(prepared: PlannedBuild) -> Iterable[tuple[AdapterSource, Path]]:
    """The adapters as asked, and where they are."""
    return zip(prepared.recipe.adapters, prepared.subject.adapters, strict=True)


def build_report(
    prepared: PlannedBuild,
    report: Report | None,
    seconds: Mapping[str, float],
    effects: tuple[AdapterEffect, ...],
    proof: Proof | None = None,
    evaluation: Evaluation | None = None,
) -> BuildReport:
    """The report of a build.

    Args:
        prepared: the build.
        report: the checks, None where they were not made.
        seconds: by stage.
        effects: what each adapter changed.
        proof: None without ``--prove``.
        evaluation: None without ``--evaluate``.
    """
    return BuildReport(
        report=report,
        notes=prepared.plan.notes,
        ollama=ollama_differences(prepared.spec),
        outputs=tuple(OutputFigures(output.file, output.label, output.nbytes) for output in prepared.plan.outputs),
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        effects=effects,
        proof=None if proof is None else proof.to_json(),
        evaluation=None if evaluation is None else evaluation.to_json(),
        choice=None if prepared.plan.choice is None else prepared.plan.choice.to_json(),
    )
