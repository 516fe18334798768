"""Continues what a killed run has begun: takes over its files, and finds out what of them is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from quantkit.engine.continued import Claims, check_begun, claimed, claimed_bytes
from quantkit.engine.device import Workers
from quantkit.engine.output_files import Begun
from quantkit.errors import OutputError
from quantkit.files.fileio import blocks, sha256_of
from quantkit.files.journal import Head, JournalWriter, Record, journal_path
from quantkit.files.leftovers import move_part
from quantkit.files.workspace import Workspace
from quantkit.jobs.journal_head import difference
from quantkit.plan.values import Output, PlannedTensor
from quantkit.system.progress import Reporter
from quantkit.system.units import size

Taken = tuple[Output, Path, Mapping[str, Claims]]


def take_over(
    outputs: Sequence[Output], heads: Mapping[str, Head], work: Workspace, folder: Path, reporter: Reporter
) -> list[Taken]:
    """Move what killed runs left of some files into a folder of this run.

    Args:
        outputs: the files.
        heads: what their journals must say.
        work: the workspace, which knows what is left.
        folder: where the files go on.
        reporter: told what is made again.

    Returns:
        The files that are there, where they are, and what their journals say.

    Raises:
        OutputError: a file was begun with other inputs or another plan, and may not be replaced. Nothing is moved then.
    """
    found: list[tuple[Output, Path, Mapping[str, Claims]]] = []
    for output in outputs:
        part = work.part(output.file)
        if part is None:
            continue
        fitting = [journal for journal in part.journals if journal.head == heads[output.file]]
        if fitting:
            found.append((output, part.path, claimed(record for journal in fitting for record in journal.records)))
            continue
        if part.journals and not work.overwrite:
            raise OutputError(
                f"{work.place / output.file}: cannot be continued: "
                f"{difference(part.journals[0].head, heads[output.file])}",
                hint="repeat the command as it was, or pass --overwrite to begin again",
            )
        why = difference(part.journals[0].head, heads[output.file]) if part.journals else "its journal is damaged"
        reporter.note(f"{output.file} is made again: {why}")
    for output, path, _ in found:
        move_part(path, folder / output.file)
    return [(output, folder / output.file, claims) for output, _, claims in found]


def begun_files(
    taken: Sequence[Taken], tensors: Sequence[PlannedTensor], workers: Workers, reporter: Reporter
) -> dict[str, Begun]:
    """What is finished of files that were taken over: their bytes are compared with what their journals say."""
    if not taken:
        return {}
    total = sum(claimed_bytes(claims) for _, _, claims in taken)
    with reporter.phase("checking what is finished", total, "bytes") as progress:
        found = check_begun(taken, tensors, chunk=workers.chunk, threads=workers.threads, progress=progress)
    done = sum(prefix.nbytes for begun in found.values() for prefix in begun.tensors.values())
    whole = sum(output.nbytes for output, _, _ in taken)
    reporter.note(f"continued: {size(done)} of {size(whole)} were finished")
    return found


def take_matrix(matrix: Path, head: Head, work: Workspace) -> bool:
    """Take over an importance matrix that a killed run has begun, if it is the one of this head.

    Args:
        matrix: where it goes on.
        head: what decides it, the head of its journal.
        work: the workspace, which knows what is left.

    Returns:
        Whether it is finished, byte by byte what the killed run wrote.
    """
    part = work.part(matrix.name)
    fitting = [journal for journal in part.journals if journal.head == head] if part is not None else []
    if part is None or not fitting:
        return False
    move_part(part.path, matrix)
    record = Record("", matrix.stat().st_size, sha256_of(blocks(matrix)))
    return any(record in journal.records for journal in fitting)


def write_claim(file: Path, head: Head, *, finished: bool = False) -> None:
    """Write the journal of a file that is written as a whole: that it has begun, or is finished."""
    done = (file.stat().st_size, sha256_of(blocks(file))) if finished else (0, sha256_of([]))
    JournalWriter(journal_path(file), head, [Record("", *done)]).close()


def reserved_bytes(taken: Sequence[Taken]) -> int:
    """The bytes on the disk that files have already."""
    return sum(_blocks(path) for _, path, _ in taken)


def _blocks(path: Path) -> int:
    found = path.stat()
    return 512 * getattr(found, "st_blocks", found.st_size // 512)
