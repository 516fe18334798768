"""What a build leaves of itself in the package: the manifest, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from quantkit.jobs.prepare import PlannedBuild
from quantkit.package.manifest import Manifest
from quantkit.package.manifest_sources import SourcesEntry
from quantkit.package.ollama_modelfile import ollama_differences
from quantkit.package.plan_entries import (
    adapter_entry,
    chat_entry,
    model_entry,
    source_entry,
    text_entries,
    versions,
)
from quantkit.prove.proof import Proof
from quantkit.verify.report import Report
from quantkit.verify.report_file import BuildReport, OutputFigures


def build_manifest(prepared: PlannedBuild, digests: Mapping[str, Mapping[str, str]], texts: Sequence[Path]) -> Manifest:
    """The manifest of a build.

    Args:
        prepared: the build.
        digests: by file, by tensor: sha256.
        texts: the package's text files.
    """
    recipe, subject, plan, spec = prepared.recipe, prepared.subject, prepared.plan, prepared.spec
    adapters = zip(recipe.adapters, subject.adapters, strict=True)
    return Manifest(
        name=spec.name,
        versions=versions(subject.libraries),
        # Devices may differ by a unit in the last place, so the one that was used is kept, not "auto".
        recipe={**recipe.to_json(), "device": prepared.workers.kind},
        sources=SourcesEntry(
            model=source_entry(recipe.model, subject.folder),
            adapters=tuple(source_entry(asked.source, folder) for asked, folder in adapters),
        ),
        inputs=subject.inputs,
        models=tuple(model_entry(parts, digests) for parts in plan.models),
        adapter_files=tuple(adapter_entry(file, digests[file.output.file]) for file in subject.adapter_files),
        files=text_entries(texts),
        chat=chat_entry(spec),
        notes=plan.notes,
    )


def build_report(
    prepared: PlannedBuild, report: Report | None, seconds: Mapping[str, float], proof: Proof | None = None
) -> BuildReport:
    """The report of a build.

    Args:
        prepared: the build.
        report: the checks, None where they were not made.
        seconds: by stage.
        proof: None without ``--prove``.
    """
    return BuildReport(
        report=report,
        notes=prepared.plan.notes,
        ollama=ollama_differences(prepared.spec),
        outputs=tuple(OutputFigures(output.file, output.label, output.nbytes) for output in prepared.plan.outputs),
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        proof=None if proof is None else proof.to_json(),
    )
