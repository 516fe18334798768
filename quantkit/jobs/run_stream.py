"""What jobs share: a stream into a workspace, with the disk looked at before and the progress told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from quantkit.engine.device import Workers
from quantkit.engine.encoders import kinds, load_encoders
from quantkit.engine.file_source import FileSource
from quantkit.engine.output_files import Keeping
from quantkit.engine.stream import stream
from quantkit.errors import OutputError
from quantkit.files.replaceable import Mark
from quantkit.files.workspace import Workspace, workspace
from quantkit.jobs.continue_stream import begun_files, reserved_bytes, take_over
from quantkit.jobs.journal_head import journal_heads
from quantkit.jobs.run_options import RunOptions
from quantkit.model.merger import Merger
from quantkit.model.opened import MergedCheckpoint
from quantkit.plan.values import Output, PlannedTensor, count_elements
from quantkit.system.beside import beside
from quantkit.system.progress import Reporter
from quantkit.system.units import size


def merger(model: MergedCheckpoint) -> Merger:
    """The source of a model's merged rows."""
    return Merger(model.checkpoint, model.adapters)


def streaming_workspace(
    final: Path, run: RunOptions, *, inputs: Sequence[Path], file: bool = False, mark: Mark | None = None
) -> AbstractContextManager[Workspace]:
    """The workspace of a job that streams, and can so be continued; arguments as of
    :func:`quantkit.files.workspace.workspace`."""
    return workspace(
        final,
        overwrite=run.overwrite,
        inputs=inputs,
        file=file,
        fsync=run.fsync,
        mark=mark,
        resume=run.resume,
        note=run.reporter.note,
    )


def stream_files(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: FileSource,
    work: Workspace,
    workers: Workers,
    reporter: Reporter,
    check: Callable[[], None] = lambda: None,
    *,
    keep: bool = True,
) -> Path:
    """Stream the parts of one model, and publish them unless *check* raises."""
    files = [output.file for output in outputs]
    work.reserve(files)
    run_stream(tensors, outputs, source, work, workers, reporter, keep=keep)
    check()
    return work.publish_files(files)


def run_stream(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: FileSource,
    work: Workspace,
    workers: Workers,
    reporter: Reporter,
    *,
    wider: str = "--outtype",
    folder: Path | None = None,
    loaded: Callable[[], None] = lambda: None,
    origin: FileSource | None = None,
    keep: bool = True,
) -> dict[str, dict[str, str]]:
    """Stream into a workspace: what a killed run has finished is taken over, disk space checked, progress told.

    Args:
        tensors, outputs, source, workers, wider: as in :func:`quantkit.engine.stream.stream`.
        work: whose disk is looked at, and whose output errors speak of.
        reporter: told of the progress.
        folder: to write into; default the workspace's own.
        loaded: called when the encoders are compiled and loaded, and the stream begins.
        origin: where the rows really come from, if *source* is an intermediate file.
        keep: keep journals, so that another process can continue.

    Returns:
        By file, by tensor: sha256.

    Raises:
        OutputError: the disk is too small, or what a killed run has begun is something else.
    """
    into = folder or work.path
    chosen = kinds(tensors, outputs)
    count = len(chosen) * len(workers.devices)
    with beside(lambda: journal_heads(tensors, outputs, (origin or source).reads(), workers) if keep else {}) as heads:
        taken = take_over(outputs, heads.result(), work, into, reporter) if work.earlier and keep else []
        check_space(work, sum(output.nbytes for output in outputs) - reserved_bytes(taken))
        with reporter.phase("loading encoders", count, "kinds of tensors") as progress:
            compare = load_encoders(chosen, outputs, source, workers, progress)
    keeping = Keeping(heads.result(), begun_files(taken, tensors, workers, reporter), work.fsync, source.measures)
    loaded()
    weights = sum(count_elements(tensor.shape) for tensor in tensors)
    with beside(compare), reporter.phase("writing", weights) as progress:
        return stream(
            tensors,
            outputs,
            source,
            into,
            workers=workers,
            shown=work.place,
            wider=wider,
            progress=progress,
            keeping=keeping,
        )


def check_space(work: Workspace, nbytes: int) -> None:
    """Refuse before the work what the disk cannot hold.

    Raises:
        OutputError: with both sizes.
    """
    free = shutil.disk_usage(work.path).free
    if free < nbytes:
        raise OutputError(
            f"{work.final}: the outputs need {size(nbytes)}, the disk has {size(free)} free",
            hint="free some space or choose another disk with -o",
        )
