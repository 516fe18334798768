"""``quantkit evaluate``: how good are quantized files, compared with the unquantized one?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

from quantkit.errors import QuantkitError
from quantkit.evaluate.evaluate_files import evaluate_files
from quantkit.evaluate.evaluation import Asked, Evaluation, Settings
from quantkit.evaluate.files import Chosen, choose_files
from quantkit.evaluate.questions import read_questions
from quantkit.evaluate.text import Text, context_for, cut
from quantkit.gguf.model import read_whole_model
from quantkit.jobs.argument_kinds import COUNT
from quantkit.jobs.arguments import PathInput, read_path, read_paths
from quantkit.jobs.evaluated_card import put_on_card
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.material.ask import tokens_of
from quantkit.material.data_file import EVALUATION
from quantkit.package.built import RunnablePackage
from quantkit.package.manifest import MANIFEST
from quantkit.system.progress import Reporter
from quantkit.verify.report_file import add_to_report

LONGEST_ANSWER = 256
"""Tokens of an answer, unless the package has num_predict."""


def evaluate(
    paths: PathInput | Sequence[PathInput],
    *,
    reference: PathInput | None = None,
    data: PathInput | None = None,
    ctx: int | None = None,
    chunks: int | None = None,
    questions: PathInput | None = None,
    n_gpu_layers: int = -1,
    ray: str | None = None,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Evaluation:
    """Compare files with an unquantized one: KL divergence, perplexity, speed, memory, the error of each tensor.

    The figures are those of ``llama-perplexity --kl-divergence`` for the same text and context. The evaluation of a
    package is put into its report.json, and on its card.

    Args:
        paths: GGUF files, packages, or other folders with GGUF files.
        reference: what they are compared with; default the first unquantized file among them or beside them, else the
            largest.
        data: a text in UTF-8, or conversations as JSON lines; default a text that comes with quantkit.
        ctx: tokens of a chunk; default 512, or what the model was trained with if that is less.
        chunks: how many chunks to evaluate at most.
        questions: a file with a question on each line, or with conversations, that every file answers.
        n_gpu_layers: layers to put on the GPU, -1 for all; no effect in a build without GPU support.
        ray: address of a Ray cluster whose nodes have the same files under the same paths, and divide the text.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`; *threads* and *reporter* have an effect.

    Returns:
        The evaluation; a file that could not be evaluated is in ``failed``.

    Raises:
        QuantkitError: nothing to evaluate, a broken file, vocabularies that differ, too short a text, or a reference
            that cannot be evaluated; with *ray*, no cluster that answers.
    """
    run = run_options(run, **keywords)
    asked_ctx = None if ctx is None else COUNT.read("ctx", ctx)
    most = None if chunks is None else COUNT.read("chunks", chunks)
    given = read_paths("paths", paths)
    chosen = choose_files(given, None if reference is None else read_path("reference", reference))
    for note in chosen.notes:
        run.reporter.note(note)
    asked = Asked() if questions is None else _questions(read_path("questions", questions), chosen.package)
    text = evaluation_text(
        chosen.reference.path, None if data is None else read_path("data", data), asked_ctx, most, run.reporter
    )
    settings = Settings(n_gpu_layers=n_gpu_layers, threads=run.threads)
    with ExitStack() as held:
        runners = None
        if ray is not None:
            from quantkit.evaluate.spread import spread_runners

            place = chosen.reference.path.parent
            spread = spread_runners(ray, place, run.reporter, n_gpu_layers=n_gpu_layers, threads=run.threads)
            runners = held.enter_context(spread)
        found = evaluate_files(
            chosen.reference,
            chosen.files,
            text,
            asked=asked,
            settings=settings,
            reporter=run.reporter,
            runners=runners,
        )
    if (package := _package(given, chosen)) is not None:
        if not add_to_report("evaluation", found.to_json(), package):
            run.reporter.note(f"{package.name} does not have a report.json, so the evaluation is not in it")
        if found.files and (why := put_on_card(found, package)) is not None:
            run.reporter.note(f"{why}, so the evaluation is not on the card")
    return found


def evaluation_text(
    reference: Path, data: Path | None, ctx: int | None, chunks: int | None, reporter: Reporter
) -> Text:
    """The text of an evaluation, in the reference's tokens.

    Raises:
        QuantkitError: it cannot be read, or is too short.
    """
    context, note = context_for(read_whole_model(reference), ctx)
    if note:
        reporter.note(note)
    limit = None if chunks is None else chunks * context
    return cut(tokens_of(reference, data or EVALUATION, limit), context, chunks)


def _questions(path: Path, package: RunnablePackage) -> Asked:
    limit = package.parameters.get("num_predict", "")
    longest = int(limit) if limit.isdecimal() and int(limit) > 0 else LONGEST_ANSWER
    return read_questions(path, package.system, package.stops, longest)


def _package(given: Sequence[Path], chosen: Chosen) -> Path | None:
    """The package whose report gets the evaluation: the only path that is given."""
    folders = {file.folder for file in chosen.files}
    folder = next(iter(folders)) if len(folders) == 1 else None
    return folder if folder is not None and len(given) == 1 and (folder / MANIFEST).is_file() else None


def require_whole(found: Evaluation) -> None:
    """Refuse an evaluation that lacks files.

    Raises:
        QuantkitError: naming them.
    """
    if found.failed:
        named = "; ".join(f"{name}: {reason}" for name, reason in found.failed)
        raise QuantkitError(f"not evaluated: {named}", hint="the others are; see quantkit smoke FILE for these")
