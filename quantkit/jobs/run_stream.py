"""What jobs share: a stream into a workspace, with the disk looked at before and the progress told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from quantkit.engine.device import Workers
from quantkit.engine.encoders import kinds, load_encoders
from quantkit.engine.stream import RowSource, stream
from quantkit.errors import OutputError
from quantkit.files.workspace import Workspace
from quantkit.model.merger import Merger
from quantkit.model.opened import MergedCheckpoint
from quantkit.plan.values import Output, PlannedTensor, count_elements
from quantkit.system.beside import beside
from quantkit.system.progress import Reporter
from quantkit.system.units import size


def merger(model: MergedCheckpoint) -> Merger:
    """The source of a model's merged rows."""
    return Merger(model.checkpoint, model.adapters)


def stream_files(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: RowSource,
    work: Workspace,
    workers: Workers,
    reporter: Reporter,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Stream the parts of one model, and publish them unless *check* raises."""
    files = [output.file for output in outputs]
    work.reserve(files)
    run_stream(tensors, outputs, source, work, workers, reporter)
    check()
    return work.publish_files(files)


def run_stream(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: RowSource,
    work: Workspace,
    workers: Workers,
    reporter: Reporter,
    *,
    wider: str = "--outtype",
    folder: Path | None = None,
    loaded: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, str]]:
    """Stream into a workspace: disk space checked before, progress told.

    Args:
        tensors, outputs, source, workers, wider: as in :func:`quantkit.engine.stream.stream`.
        work: whose disk is looked at, and whose output errors speak of.
        reporter: told of the progress.
        folder: to write into; default the workspace's own.
        loaded: called when the encoders are compiled and loaded, and the stream begins.

    Returns:
        By file, by tensor: sha256.
    """
    check_space(work, sum(output.nbytes for output in outputs))
    chosen = kinds(tensors, outputs)
    with reporter.phase("loading encoders", len(chosen) * len(workers.devices), "kinds of tensors") as progress:
        compare = load_encoders(chosen, outputs, source, workers, progress)
    loaded()
    weights = sum(count_elements(tensor.shape) for tensor in tensors)
    with beside(compare), reporter.phase("writing", weights) as progress:
        return stream(
            tensors,
            outputs,
            source,
            folder or work.path,
            workers=workers,
            shown=work.place,
            wider=wider,
            progress=progress,
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
