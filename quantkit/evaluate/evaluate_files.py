"""Evaluates files: compares them with a reference on a text, one process for each, and lets them answer questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantkitError
from quantkit.evaluate.evaluation import Asked, Evaluation, Measured, Settings
from quantkit.evaluate.figures import figures_of
from quantkit.evaluate.files import EvaluatedFile, bits_per_weight
from quantkit.evaluate.process import Runner, Runners
from quantkit.evaluate.reference import Reference, open_reference
from quantkit.evaluate.tensor_errors import tensor_errors
from quantkit.evaluate.text import Text
from quantkit.gguf.model import read_whole_model
from quantkit.kernels.logit_steps import Compared
from quantkit.plan.values import count_elements
from quantkit.system.processors import usable_processors
from quantkit.system.progress import Reporter


@dataclass
class _Run:
    """An evaluation under way."""

    settings: Settings
    reporter: Reporter
    runners: Runners
    measured: list[Measured] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def evaluate_files(
    reference: EvaluatedFile,
    files: Sequence[EvaluatedFile],
    text: Text,
    *,
    asked: Asked | None = None,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    runners: Runners | None = None,
) -> Evaluation:
    """Compare files with a reference on a text, and let all of them answer questions.

    A file that cannot be evaluated is in ``failed``, and the others are evaluated all the same.

    Args:
        reference: what the others are compared with.
        files: the others, of the same vocabulary.
        text: the text in chunks.
        asked: questions for every file.
        settings: how to evaluate.
        reporter: receives progress and notes.
        runners: how files are run, None for processes of this machine.

    Raises:
        QuantkitError: the reference cannot be evaluated.
    """
    asked, settings = asked or Asked(), settings or Settings()
    n_gpu_layers, threads = settings.n_gpu_layers, settings.threads
    run = _Run(settings, reporter or Reporter(), runners or (lambda heard: Runner(n_gpu_layers, threads, heard)))
    with run.reporter.phase("evaluating", text.chunks * (1 + len(files)), "chunks") as progress:
        runner = run.runners(progress)
        with open_reference(reference.path, text, runner, speed=settings.speed, home=settings.home) as opened:
            if opened.reused:
                run.reporter.note(f"the logits of {reference.name} on this text are those of an earlier evaluation")
                progress(text.chunks)
            elif not opened.kept:
                run.reporter.note(f"the logits of {reference.name} are not kept: too large, or no place in the cache")
            for file in files:
                _measure(run, file, opened, runner)
    if settings.tensors:
        _add_tensors(run, reference)
    answers = _answers(run, (reference, *files), asked)
    return Evaluation(
        text=text,
        reference=reference,
        reference_nbytes=read_whole_model(reference.path).nbytes,
        reference_perplexity=opened.perplexity,
        reference_speed=opened.speed,
        bytes_per_position=opened.nbytes / text.positions,
        files=tuple(run.measured),
        questions=asked.questions if answers else (),
        answers=answers,
        failed=tuple(run.failed),
    )


def divergences(
    reference: Path,
    files: Sequence[Path],
    text: Text,
    *,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
) -> list[Measured]:
    """The figures and the divergence at every position of some files: no speeds, no tensors.

    The reference's logits are computed by the first call with a text, and reused by later ones.

    Raises:
        QuantkitError: a file cannot be evaluated.
    """
    settings, reporter = settings or Settings(), reporter or Reporter()
    with reporter.phase("evaluating", text.chunks * (1 + len(files)), "chunks") as progress:
        runner = Runner(settings.n_gpu_layers, settings.threads, progress)
        with open_reference(reference, text, runner, speed=False, home=settings.home) as opened:
            if opened.reused:
                progress(text.chunks)
            return [_measured(EvaluatedFile(path, "", path.name), opened, runner, speed=False) for path in files]


def _measure(run: _Run, file: EvaluatedFile, reference: Reference, runner: Runner) -> None:
    try:
        run.measured.append(_measured(file, reference, runner, speed=run.settings.speed))
    except QuantkitError as error:
        run.failed.append((file.name, str(error)))


def _measured(file: EvaluatedFile, reference: Reference, runner: Runner, *, speed: bool) -> Measured:
    compared, found = runner.compare(file.path, reference.task, reference.work.path / "compared.npz", speed=speed)
    model = read_whole_model(file.path)
    return Measured(
        file=file,
        nbytes=model.nbytes,
        bits=bits_per_weight(model),
        figures=figures_of(compared),
        divergence=_single(compared),
        speed=found,
    )


def _single(compared: Compared) -> npt.NDArray[np.float32]:
    return compared.divergence.astype(np.float32)


def _add_tensors(run: _Run, reference: EvaluatedFile) -> None:
    """Measure the error of each tensor of the files that could be evaluated."""
    threads = run.settings.threads or usable_processors()
    infos = read_whole_model(reference.path).header.tensors.values()
    weights = sum(count_elements(info.shape) for info in infos)
    with run.reporter.phase("comparing tensors", weights * len(run.measured)) as progress:
        for number, found in enumerate(run.measured):
            errors = tensor_errors(reference.path, found.file.path, threads, progress)
            run.measured[number] = replace(found, tensors=tuple(errors))


def _answers(run: _Run, files: Sequence[EvaluatedFile], asked: Asked) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not asked.talks:
        return ()
    found = []
    failed = {name for name, _ in run.failed}
    with run.reporter.phase("answering", len(files) * len(asked.talks), "answers") as progress:
        runner = run.runners(progress)
        for file in files:
            if file.name in failed:
                continue
            try:
                found.append((file.name, tuple(runner.answer(file.path, asked.talks, asked.stops, asked.longest))))
            except QuantkitError as error:
                run.failed.append((file.name, f"no answers: {error}"))
    return tuple(found)
