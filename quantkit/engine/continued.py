"""What is really finished of files that an earlier run has begun: their bytes are read and compared with the journal.

The ranges of a tensor count up to the last one at whose end the hash is that of a record. Whatever comes after it, and
whatever has no record, is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantkit.engine.output_files import Begun
from quantkit.engine.ranges import row_ranges
from quantkit.files.fileio import blocks
from quantkit.files.journal import Record
from quantkit.files.output_file import Prefix
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

# By number of bytes of a tensor: their sha256, of which there may be several claims.
Claims = Mapping[int, frozenset[str]]


def claimed(records: Iterable[Record]) -> dict[str, Claims]:
    """What records say, by tensor."""
    found: dict[str, dict[int, frozenset[str]]] = {}
    for record in records:
        sizes = found.setdefault(record.tensor, {})
        sizes[record.nbytes] = sizes.get(record.nbytes, frozenset()) | {record.sha256}
    return dict(found)


def claimed_bytes(claims: Mapping[str, Claims]) -> int:
    """How many bytes must be read to check what records say."""
    return sum(max(sizes) for sizes in claims.values())


def check_begun(
    files: Sequence[tuple[Output, Path, Mapping[str, Claims]]],
    tensors: Sequence[PlannedTensor],
    *,
    chunk: int | None,
    threads: int,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> dict[str, Begun]:
    """What is finished of some files.

    Args:
        files: each with its path, and what its journals say.
        tensors: what is streamed into them.
        chunk: weights in a range, as of :func:`quantkit.engine.ranges.row_ranges`.
        threads: how many read at a time.
        progress: called with numbers of bytes that were read, from many threads.

    Returns:
        By file: by tensor, its first ranges.

    Raises:
        OSError: a file cannot be read.
    """
    planned = {tensor.name: tensor for tensor in tensors}
    pool = ThreadPoolExecutor(threads, thread_name_prefix="check")
    try:
        futures = {
            (output.file, name): pool.submit(_finished, path, planned[name], slot, claims[name], chunk, progress)
            for output, path, claims in files
            for name, slot in output.tensors.items()
            if name in claims and name in planned
        }
        found: dict[str, dict[str, Prefix]] = {output.file: {} for output, _, _ in files}
        for (file, name), future in futures.items():
            if (prefix := future.result()) is not None:
                found[file][name] = prefix
    finally:
        pool.shutdown(cancel_futures=True)
    return {file: Begun(prefixes) for file, prefixes in found.items()}


def _finished(
    path: Path,
    tensor: PlannedTensor,
    slot: TensorSlot,
    claims: Claims,
    chunk: int | None,
    progress: Callable[[int], None],
) -> Prefix | None:
    """The ranges of a tensor that are finished; None if none is."""
    row, last = slot.nbytes // tensor.rows, max(claims)
    digest, found, at = hashlib.sha256(), None, 0
    for row_range in row_ranges(tensor, chunk):
        end = row_range.stop * row
        if end > last:
            break
        for block in blocks(path, slot.offset + at, end - at):
            digest.update(block)
            progress(len(block))
        at = end
        if end in claims:
            if digest.hexdigest() not in claims[end]:
                break
            found = Prefix(row_range.index + 1, end, digest.copy())
    return found
