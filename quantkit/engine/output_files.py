"""The files that a stream writes: each range at its offset, hashed, and recorded in the journal of its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from quantkit.engine.ranges import RowRange
from quantkit.files.fileio import sync
from quantkit.files.journal import Head, JournalWriter, Record, journal_path
from quantkit.files.output_file import Bytes, OrderedDigest, OutputFile, Prefix, Start
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

Piece = tuple[Output, TensorSlot, Bytes]
Span = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Begun:
    """What is finished of a file: by tensor, its first ranges, whose bytes have been compared with their hashes."""

    tensors: Mapping[str, Prefix] = field(default_factory=dict)


@dataclass(frozen=True)
class Keeping:
    """What a stream keeps, so that it can be continued, and where it continues.

    Attributes:
        heads: by file, the head of its journal.
        begun: by file, what is finished. A file that is not here does not exist.
        fsync: flush what is finished now and then, so that it survives a power cut.
        measures: whether the rows of a tensor must be read even where they are finished, because the source measures
            what it hands out.
    """

    heads: Mapping[str, Head] = field(default_factory=dict)
    begun: Mapping[str, Begun] = field(default_factory=dict)
    fsync: bool = False
    measures: Callable[[PlannedTensor], bool] = lambda tensor: False


class OutputFiles:
    """The open files; a context manager that closes them. Safe from any thread."""

    def __init__(
        self, outputs: Sequence[Output], folder: Path, shown: Path, keeping: Keeping, *, exist: bool = False
    ) -> None:
        """Create the files, or open those that have begun.

        Args:
            outputs: what they are.
            folder: where they are made.
            shown: the folder to speak of in errors.
            keeping: their journals, and where they continue.
            exist: another process has created them.

        Raises:
            OutputError: one cannot be written.
        """
        self._exist = exist
        self._files: dict[str, OutputFile] = {}
        self._journals: dict[str, JournalWriter] = {}
        self._done: dict[tuple[str, str], Prefix] = {}
        self._digests: dict[tuple[str, str], OrderedDigest] = {}
        with ExitStack() as stack:
            for output in outputs:
                self._open(output, folder, shown, keeping, stack)
            if keeping.fsync and keeping.heads:
                sync(folder)
                sync(folder.parent)
            self._stack = stack.pop_all()

    def _open(self, output: Output, folder: Path, shown: Path, keeping: Keeping, stack: ExitStack) -> None:
        name, named = output.file, shown / output.file
        begun = keeping.begun.get(name)
        start = Start.CREATED if self._exist else Start.NEW if begun is None else Start.BEGUN
        file = OutputFile(folder / name, output.header, output.nbytes, shown=named, start=start)
        self._files[name] = stack.enter_context(file)
        done = begun.tensors if begun is not None else {}
        if begun is not None:
            for offset, nbytes in padding(output):
                file.write(offset, bytes(nbytes))
        for tensor in output.tensors:
            self._digests[name, tensor] = OrderedDigest(done.get(tensor))
        self._done |= {(name, tensor): prefix for tensor, prefix in done.items()}
        if (head := keeping.heads.get(name)) is not None:
            records = [Record(tensor, prefix.nbytes, prefix.hash.hexdigest()) for tensor, prefix in done.items()]
            path, flush = journal_path(folder / name), file.flush if keeping.fsync else None
            journal = stack.enter_context(JournalWriter(path, head, records, shown=named, flush=flush))
            for tensor, prefix in done.items():
                journal.begin_at(tensor, prefix.pieces)
            self._journals[name] = journal

    def lacks(self, output: Output, row_range: RowRange) -> bool:
        """Whether a file still needs a range of a tensor that it has a place for."""
        done = self._done.get((output.file, row_range.tensor.name))
        return done is None or row_range.index >= done.pieces

    def put(self, row_range: RowRange, pieces: Sequence[Piece], span: Span) -> None:
        """Write a range at its offsets and add it to the tensors' hashes, before it waits for a file's turn.

        Args:
            row_range: the range.
            pieces: for each output that lacks it, its place for the tensor and the bytes.
            span: a step for the timeline.
        """
        tensor = row_range.tensor

        def write(output: Output, at: TensorSlot, data: Bytes, *, wait: bool) -> bool:
            offset = at.offset + row_range.start * (at.nbytes // tensor.rows)
            with span("write"):
                return self._files[output.file].write(offset, data, wait=wait)

        late = [piece for piece in pieces if not write(*piece, wait=False)]
        records: list[tuple[str, Record]] = []
        for output, at, data in pieces:
            with span("hash"):
                sha256 = self._digests[output.file, tensor.name].update(row_range.index, data)
            if sha256:
                nbytes = row_range.stop * (at.nbytes // tensor.rows)
                records.append((output.file, Record(tensor.name, nbytes, sha256)))
        for piece in late:
            write(*piece, wait=True)
        for file, record in records:
            if file in self._journals:
                self._journals[file].finished(row_range.index, record)

    def abandon(self) -> None:
        """Release all waiting threads: nothing more will be written."""
        for digest in self._digests.values():
            digest.abandon()

    def digests(self, output: Output) -> dict[str, str]:
        """By tensor: sha256 of its bytes; all of them must have been put."""
        return {name: self._digests[output.file, name].hexdigest() for name in output.tensors}

    def close(self) -> None:
        """Close files and journals."""
        self._stack.close()


def padding(output: Output) -> list[tuple[int, int]]:
    """The bytes between the tensors of a file, which are zeros: offset and number."""
    found, end = [], len(output.header)
    for slot in sorted(output.tensors.values(), key=lambda slot: slot.offset):
        if slot.offset > end:
            found.append((end, slot.offset - end))
        end = max(end, slot.offset + slot.nbytes)
    return [*found, *([(end, output.nbytes - end)] if output.nbytes > end else [])]
