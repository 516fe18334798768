"""The whole job: plan, stream, package, verify, publish."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
from quantkit.hub.fetch import folders_here
from quantkit.jobs.argument_kinds import FLAG
from quantkit.jobs.arguments import PathInput, SourceInput, read_path
from quantkit.jobs.build_calibration import calibrated
from quantkit.jobs.build_evaluation import plan_evaluation, require_quantized
from quantkit.jobs.build_proof import build_origin, proof_of
from quantkit.jobs.build_record import build_manifest, build_report
from quantkit.jobs.evaluated_card import quality
from quantkit.jobs.prepare import PlannedBuild, prepare
from quantkit.jobs.recipe import BuildKeywords, Recipe, read_request
from quantkit.jobs.run_options import RunOptions
from quantkit.jobs.run_stream import run_stream, streaming_workspace
from quantkit.jobs.unquantized import stream_build
from quantkit.model.adapter_checks import check_effects
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.package.file_names import REPORT
from quantkit.package.manifest import PACKAGE_MARK, write_manifest
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
    reporter, checked = run.reporter, FLAG.read("verify", verify)
    if recipe.via_llama_cpp is not None:
        from quantkit.jobs.via_llama_cpp import refuse_resume

        refuse_resume(run)
    proving = proof_of(recipe, reporter) if FLAG.read("prove", prove) else None
    recipe = recipe if proving is None else proving.recipe
    data = None if evaluate_data is None else read_path("evaluate_data", evaluate_data)
    if wanted := FLAG.read("evaluate", evaluate) or data is not None:
        require_quantized(recipe)
    if ray is not None:
        from quantkit.jobs.spread import require_spreadable

        require_spreadable(recipe)
        if run.resume:
            raise QuantkitError("--resume cannot go with --ray yet: nodes keep no journals", hint="leave out --resume")
    trace = None if profile is None else read_path("profile", profile)
    clock = _Clock()
    if isinstance(recipe.model, Path):
        require_folder(recipe.model)  # before the output is looked at, which may have its name
    matrix_here = recipe.imatrix if isinstance(recipe.imatrix, Path) else None
    files = [matrix_here, recipe.calibrate, recipe.choice_data, Path(recipe.template), data]
    inputs = [
        *folders_here([recipe.model, *recipe.adapters]),
        *(path for path in files if path is not None and os.path.isfile(path)),
        *([recipe.via_llama_cpp] if recipe.via_llama_cpp else []),
    ]
    with (
        streaming_workspace(recipe.folder, run, inputs=inputs, mark=PACKAGE_MARK) as work,
        calibrated(recipe, work, run, proving) as (weighted, matrix, written),
        _prepared(weighted, work, run) as prepared,
    ):
        if checked or proving is not None:
            work.reserve_failed()
        timeline = Timeline()
        if trace is not None:
            prepared = replace(prepared, workers=replace(prepared.workers, timeline=timeline))
        if matrix is not None:
            clock.lap("calibrate")
        if recipe.asked is not None:
            from quantkit.jobs.choose import with_choice

            prepared, written = with_choice(weighted, prepared, work, written)
            clock.lap("choose")
        prepared = replace(prepared, recipe=recipe)
        plan, subject = prepared.plan, prepared.subject
        of_ollama = package_notes(prepared.spec)  # said last, because not everybody has it
        for note in plan.notes:
            if note not in of_ollama:
                reporter.note(note)
        if planned is not None:
            planned(prepared.spec)
        if proving is not None:
            proving.check(prepared)
        evaluating = plan_evaluation(prepared, work, data) if wanted else None
        extra = () if evaluating is None else evaluating.outputs
        clock.lap("plan")
        seen: dict[str, dict[str, str]] = {}
        if (seeing := subject.projector) is not None:  # before the effects are taken
            seen = run_stream(seeing.tensors, [seeing.output], subject.source, work, prepared.workers, reporter)
        digests, effects = stream_build(
            prepared, (*plan.outputs, *extra), work, written, lambda: clock.lap("compile"), ray
        )
        digests |= seen
        if evaluating is not None:
            evaluating.set_aside(work)
        for note in (measured := check_effects(effects, again=recipe.merge_again)):
            reporter.note(note)
        plan = replace(plan, notes=(*plan.notes, *measured))
        prepared = replace(prepared, plan=plan)
        for file in subject.adapter_files:
            digests |= run_stream(
                file.tensors, [file.output], file.source, work, processor_workers(run.threads), reporter
            )
        if trace is not None:
            timeline.write(trace)
        clock.lap("stream")
        texts = write_package(prepared.spec, work.path)
        manifest = build_manifest(prepared, digests, texts, effects, matrix)
        write_manifest(manifest, work.path)
        clock.lap("package")
        report = _verify(prepared, work) if checked else None
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
                texts = write_package(replace(prepared.spec, quality=quality(found)), work.path)
                manifest = build_manifest(prepared, digests, texts, effects, matrix)
                write_manifest(manifest, work.path)
            clock.lap("evaluate")
        write_report(build_report(prepared, report, clock.seconds, effects, proof, found), work.path)
        add_page(work.path, reporter)
        wrong = [check for made in (report, proof) if made is not None for check in made.checks if not check.passed]
        if wrong:
            failed = work.publish(failed=True)
            first = wrong[0]
            raise VerificationError(
                f"{failed}: built, but check {first.name!r} failed: {first.figure or first.evidence}",
                hint=f"read {failed / REPORT}",
            )
        folder = work.publish(names=manifest.file_names)
        for note in of_ollama:
            reporter.note(note)
        if trouble is not None:
            raise QuantkitError(f"{folder}: built, but not evaluated: {trouble}", hint=trouble.hint)
        return BuildResult(folder, plan, report, clock.seconds, effects, proof, found)


def _prepared(recipe: Recipe, work: Workspace, run: RunOptions) -> AbstractContextManager[PlannedBuild]:
    """The plan; made from the checkpoint's headers, or from the file that llama.cpp's converter makes of it."""
    if recipe.asked is not None:
        from quantkit.jobs.choose import unquantized

        return prepare(unquantized(recipe), run)
    if recipe.via_llama_cpp is None:
        return prepare(recipe, run)
    from quantkit.jobs.prepare_converted import prepare_converted

    return prepare_converted(recipe, work, run)


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


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now
