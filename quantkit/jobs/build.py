"""The whole job: plan, stream, package, verify, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from quantkit.checkpoint.folder import require_folder
from quantkit.engine.device import processor_workers
from quantkit.engine.timeline import Timeline
from quantkit.errors import QuantkitError, VerificationError
from quantkit.evaluate.evaluation import Evaluation
from quantkit.files.workspace import Workspace
from quantkit.jobs.arguments import PathInput, SourceInput
from quantkit.jobs.build_calibration import calibrated
from quantkit.jobs.build_evaluation import BuildEvaluation, plan_evaluation
from quantkit.jobs.build_proof import build_origin
from quantkit.jobs.build_record import build_manifest, build_report
from quantkit.jobs.build_request import read_build_request
from quantkit.jobs.evaluated_card import quality
from quantkit.jobs.prepare import PlannedBuild, prepare
from quantkit.jobs.recipe import BuildKeywords, Recipe, read_request
from quantkit.jobs.run_options import RunOptions
from quantkit.jobs.run_stream import run_stream, streaming_workspace
from quantkit.jobs.unquantized import Unquantized, stream_build
from quantkit.model.adapter_checks import check_effects
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.package.file_names import REPORT
from quantkit.package.manifest import PACKAGE_MARK, Manifest, write_manifest
from quantkit.package.manifest_entries import MatrixEntry
from quantkit.package.ollama_modelfile import package_notes
from quantkit.package.render import write_package
from quantkit.package.spec import PackageSpec
from quantkit.page.write import add_page
from quantkit.plan.values import Plan
from quantkit.prove.proof import Proof
from quantkit.verify.report import Report
from quantkit.verify.report_file import write_report


@dataclass(frozen=True)
class BuildResult:
    """A finished package.

    Attributes:
        folder: where it is.
        plan: what was written.
        report: the checks; None with ``verify=False``.
        seconds: by stage: plan, compile (encoders, if they are not in the cache), stream, package, verify; with
            ``calibrate=`` before them calibrate, with all that it takes, and with ``prove=True`` prove, with
            ``evaluate=True`` evaluate.
        effects: what each adapter changed.
        proof: how far the logits are from transformers' own; None without ``prove=True``.
        evaluation: how good each file is; None without ``evaluate=True``.
    """

    folder: Path
    plan: Plan
    report: Report | None
    seconds: dict[str, float]
    effects: tuple[AdapterEffect, ...] = ()
    proof: Proof | None = None
    evaluation: Evaluation | None = None


def build(
    model: Recipe | SourceInput,
    *,
    verify: bool = True,
    prove: bool = False,
    evaluate: bool = False,
    evaluate_data: PathInput | None = None,
    profile: PathInput | None = None,
    planned: Callable[[PackageSpec], None] | None = None,
    ray: str | None = None,
    run: RunOptions | None = None,
    **keywords: Unpack[BuildKeywords],
) -> BuildResult:
    """Merge, convert, quantize, package and check a model in one pass over its weights.

    For example ``build(model="org/name", adapters="my-lora", quants=["q4_0"])``.

    Args:
        model: the base model, a folder or a hub id; or a whole :class:`~quantkit.jobs.recipe.Recipe`.
        verify: load every GGUF file and check it.
        prove: compare the files' logits with those of transformers' own model; an unquantized file is then kept.
        evaluate: compare the quantized files with the unquantized one, which is removed afterwards unless it is kept.
        evaluate_data: the text or conversations for that; default a text that comes with quantkit. Implies *evaluate*.
        profile: file for a timeline of the streams and of a choice of types, in Chrome's trace format.
        planned: given what will be packaged, before any weight is read; what it raises ends the build.
        ray: address of a Ray cluster with a shared file system, whose nodes divide the stream among them.
        run: how to run; see :class:`~quantkit.jobs.run_options.RunOptions`.
        **keywords: the other fields of the recipe, and the options of the run one by one, which override those of
            *run*.

    Raises:
        VerificationError: built, but a check failed; the folder is then ``OUT.failed``, with its report.
        QuantkitError: by name, whatever else is wrong; nothing is left behind.
    """
    recipe, run = read_request(model, run, **keywords)
    asked = read_build_request(
        recipe,
        run,
        verify=verify,
        prove=prove,
        evaluate=evaluate,
        evaluate_data=evaluate_data,
        profile=profile,
        ray=ray,
    )
    recipe, proving, clock = asked.recipe, asked.proving, _Clock()
    if isinstance(recipe.model, Path):
        require_folder(recipe.model)  # before the output is looked at, which may have its name
    with (
        streaming_workspace(recipe.folder, run, inputs=asked.inputs(), mark=PACKAGE_MARK) as work,
        calibrated(recipe, work, run, proving) as (weighted, matrix, written),
        _prepared(weighted, work, run) as prepared,
    ):
        if asked.verify or proving is not None:
            work.reserve_failed()
        timeline = Timeline()
        if asked.trace is not None:
            prepared = replace(prepared, workers=replace(prepared.workers, timeline=timeline))
        if matrix is not None:
            clock.lap("calibrate")
        if recipe.asked is not None:
            from quantkit.jobs.choose import with_choice

            prepared, written = with_choice(weighted, prepared, work, written)
            clock.lap("choose")
        prepared = replace(prepared, recipe=recipe)
        of_ollama = package_notes(prepared.spec)  # said last, because not everybody has it
        _tell(run, (note for note in prepared.plan.notes if note not in of_ollama))
        if planned is not None:
            planned(prepared.spec)
        if proving is not None:
            proving.check(prepared)
        evaluating = plan_evaluation(prepared, work, asked.data) if asked.evaluate else None
        clock.lap("plan")
        prepared, streamed = _stream(prepared, evaluating, work, written, clock, ray)
        if asked.trace is not None:
            timeline.write(asked.trace)
        clock.lap("stream")
        manifest = _package(prepared, prepared.spec, streamed, matrix, work)
        clock.lap("package")
        report = _verify(prepared, work) if asked.verify else None
        clock.lap("verify")
        proof = None if proving is None else proving.prove(prepared, work.path, report)
        if proof is not None:
            clock.lap("prove")
        found, trouble = None, None
        if evaluating is not None:
            try:
                found = evaluating.evaluate(prepared, work)
            except QuantkitError as error:  # the package is there all the same
                trouble = error
            else:
                spec = replace(prepared.spec, quality=quality(found))
                manifest = _package(prepared, spec, streamed, matrix, work)
            clock.lap("evaluate")
        write_report(build_report(prepared, report, clock.seconds, streamed.effects, proof, found), work.path)
        add_page(work.path, run.reporter)
        _require_passed(report, proof, work)
        folder = work.publish(names=manifest.file_names)
        _tell(run, of_ollama)
        if trouble is not None:
            raise QuantkitError(f"{folder}: built, but not evaluated: {trouble}", hint=trouble.hint)
        return BuildResult(folder, prepared.plan, report, clock.seconds, streamed.effects, proof, found)


def _prepared(recipe: Recipe, work: Workspace, run: RunOptions) -> AbstractContextManager[PlannedBuild]:
    """The plan; made from the checkpoint's headers, or from the file that llama.cpp's converter makes of it."""
    if recipe.asked is not None:
        from quantkit.jobs.choose import unquantized

        return prepare(unquantized(recipe), run)
    if recipe.via_llama_cpp is None:
        return prepare(recipe, run)
    from quantkit.jobs.prepare_converted import prepare_converted

    return prepare_converted(recipe, work, run)


@dataclass(frozen=True)
class _Streamed:
    """What the streams of a build found.

    Attributes:
        digests: by file, by tensor: sha256.
        effects: what each adapter changed.
    """

    digests: dict[str, dict[str, str]]
    effects: tuple[AdapterEffect, ...]


def _stream(
    prepared: PlannedBuild,
    evaluating: BuildEvaluation | None,
    work: Workspace,
    written: Unquantized | None,
    clock: _Clock,
    ray: str | None,
) -> tuple[PlannedBuild, _Streamed]:
    """Write every GGUF file of a build: the vision part, the models, the adapters as files of their own.

    Returns:
        The build with the notes on what the adapters changed, and what was found.

    Raises:
        AdapterError: an adapter changes nothing, or is part of the weights already.
    """
    plan, subject, run = prepared.plan, prepared.subject, prepared.run
    seen: dict[str, dict[str, str]] = {}
    if (seeing := subject.projector) is not None:  # before the effects are taken
        seen = run_stream(seeing.tensors, [seeing.output], subject.source, work, prepared.workers, run.reporter)
    extra = () if evaluating is None else evaluating.outputs
    digests, effects = stream_build(prepared, (*plan.outputs, *extra), work, written, lambda: clock.lap("compile"), ray)
    digests |= seen
    if evaluating is not None:
        evaluating.set_aside(work)
    measured = check_effects(effects, again=prepared.recipe.merge_again)
    _tell(run, measured)
    for file in subject.adapter_files:
        workers = processor_workers(run.threads)
        digests |= run_stream(file.tensors, [file.output], file.source, work, workers, run.reporter)
    return replace(prepared, plan=replace(plan, notes=(*plan.notes, *measured))), _Streamed(digests, effects)


def _package(
    prepared: PlannedBuild, spec: PackageSpec, streamed: _Streamed, matrix: MatrixEntry | None, work: Workspace
) -> Manifest:
    """Write the texts of the package and its manifest."""
    texts = write_package(spec, work.path)
    manifest = build_manifest(prepared, streamed.digests, texts, streamed.effects, matrix)
    write_manifest(manifest, work.path)
    return manifest


def _verify(prepared: PlannedBuild, work: Workspace) -> Report:
    from quantkit.verify.models import verify_outputs

    recipe, plan, spec = prepared.recipe, prepared.plan, prepared.spec
    origin = build_origin(prepared)
    report = verify_outputs(
        [work.path / parts[0].file for parts in plan.models],
        origin=origin,
        mmproj=None if plan.mmproj is None else work.path / plan.mmproj.file,
        system=recipe.system,
        stops=spec.chat.stops,
        threads=prepared.run.threads,
        reporter=prepared.run.reporter,
    )
    if origin is not None:
        return report
    return replace(
        report,
        not_made=(
            "token ids and prompt token ids: the model's folder does not contain a tokenizer file",
            *report.not_made,
        ),
    )


def _require_passed(report: Report | None, proof: Proof | None, work: Workspace) -> None:
    """Publish a package of which a check failed under another name, and say so.

    Raises:
        VerificationError: naming the first check that failed.
    """
    wrong = [check for made in (report, proof) if made is not None for check in made.checks if not check.passed]
    if not wrong:
        return
    failed, first = work.publish(failed=True), wrong[0]
    raise VerificationError(
        f"{failed}: built, but check {first.name!r} failed: {first.figure or first.evidence}",
        hint=f"read {failed / REPORT}",
    )


def _tell(run: RunOptions, notes: Iterable[str]) -> None:
    for note in notes:
        run.reporter.note(note)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now
