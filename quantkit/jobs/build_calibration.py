"""``build --calibrate``: the importance matrix of what is being built, computed before it is quantized.

The model is planned as if the matrix were there, so that whatever cannot be built is said first. Then its unquantized
file is written aside and evaluated, and the build goes on as with ``--imatrix``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from quantkit.calibrate.imatrix_file import read_progress
from quantkit.calibrate.make import CONTEXT, make_imatrix
from quantkit.errors import QuantkitError
from quantkit.files.fileio import blocks, sha256_of
from quantkit.files.journal import Head
from quantkit.files.workspace import Workspace
from quantkit.ggml.types import UNQUANTIZED
from quantkit.jobs.build_proof import BuildProof
from quantkit.jobs.choose import unquantized
from quantkit.jobs.continue_stream import take_matrix, write_claim
from quantkit.jobs.imatrix import calibration_tokens
from quantkit.jobs.journal_head import journal_heads
from quantkit.jobs.prepare import PlannedBuild, prepare
from quantkit.jobs.recipe import Recipe, calibration_name, with_local_matrix
from quantkit.jobs.run_options import RunOptions
from quantkit.jobs.unquantized import Unquantized, write_unquantized
from quantkit.jobs.vocabulary_file import unquantized_output, vocabulary_file
from quantkit.material.tokens import Tokens
from quantkit.package.manifest_entries import MatrixEntry


@contextmanager
def calibrated(
    recipe: Recipe, work: Workspace, run: RunOptions, proving: BuildProof | None
) -> Iterator[tuple[Recipe, MatrixEntry | None, Unquantized | None]]:
    """What to build, with a matrix that is a file here: computed, downloaded, or the one that was given.

    With it what a computed matrix is, and the unquantized file that it was computed from.

    Args:
        recipe: the request.
        work: the package's workspace.
        run: how it runs.
        proving: the proof of the build, whose refusals come before the work too.

    Raises:
        QuantkitError: by name, whatever is wrong with the request or the data.
    """
    if recipe.calibrate is None:
        yield with_local_matrix(recipe, run.reporter), None, None
        return
    matrix = work.path / f"{recipe.name}-imatrix.gguf"
    with prepare(recipe if recipe.asked is None else unquantized(recipe), run) as prepared:
        if recipe.asked is None and all(quant in UNQUANTIZED for quant in recipe.quants):
            raise QuantkitError(
                "--calibrate: no file of this build is quantized, so importances have no effect",
                hint="add --quant q4_k_m",
            )
        if proving is not None:
            proving.check(prepared)
        tokens = _tokens(prepared, recipe.calibrate, work)
        head = _head(prepared, tokens)
        written = None if take_matrix(matrix, head, work) else write_unquantized(prepared, work)
    if written is not None:
        if matrix.exists() and read_progress(matrix) is None:
            matrix.unlink()  # it is whole, and nothing says that it is the right one
        write_claim(matrix, head)
        make_imatrix(
            written.path,
            tokens,
            matrix,
            chunks=len(tokens.ids) // CONTEXT,
            threads=run.threads,
            n_gpu_layers=0 if run.device == "cpu" else -1,
            reporter=run.reporter,
        )
        write_claim(matrix, head, finished=True)
    else:
        run.reporter.note(f"{matrix.name}: finished by the run that was killed")
    size = matrix.stat().st_size
    entry = MatrixEntry(
        file=matrix.name,
        size=size,
        sha256=sha256_of(blocks(matrix, 0, size)),
        data=calibration_name(recipe.calibrate),
        data_sha256=tokens.sha256,
        tokens=len(tokens.ids) // CONTEXT * CONTEXT,
        context=CONTEXT,
    )
    like = None if recipe.asked is None else recipe.choice_data or recipe.calibrate
    yield replace(recipe, calibrate=None, imatrix=matrix, choice_data=like), entry, written


def _head(prepared: PlannedBuild, tokens: Tokens) -> Head:
    """What decides the matrix: whatever decides the unquantized file, and the tokens."""
    output = unquantized_output(prepared, "whole")
    plan, reads = prepared.plan, prepared.subject.source.reads()
    (head,) = journal_heads(plan.tensors, [output], reads, prepared.workers).values()
    return {**head, "tokens": tokens.ids_sha256, "context": CONTEXT}


def _tokens(prepared: PlannedBuild, data: Path, work: Workspace) -> Tokens:
    """The tokens of the data, before any weight is read."""
    with vocabulary_file(prepared, work) as path:
        return calibration_tokens(path, data, context=CONTEXT, chunks=None, reporter=prepared.run.reporter)
