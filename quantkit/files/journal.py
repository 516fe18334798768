"""What of an output file is finished: a journal beside it while it is made, so that a killed run can be continued.

A journal is lines of text. The first is the head, a JSON object that says what the file is made from. Each further line
is a record: the first N bytes of a tensor are written, and have this sha256. Every line begins with a sum of its own;
one that does not fit it, such as the last one of a run that was killed while it wrote, does not count. A record is only
a claim: whoever continues reads the bytes and compares their hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from quantkit.files.fileio import sync
from quantkit.files.output_file import write_error

Head = Mapping[str, Any]
# Seconds between two writings, and so the most work that a kill costs beside the ranges in work; with fsync between two
# flushes, for a power cut.
WRITE_SECONDS, FLUSH_SECONDS = 0.05, 2.0
_SUM_DIGITS = 16


@dataclass(frozen=True)
class Record:
    """The beginning of a tensor that is written.

    Attributes:
        tensor: its name.
        nbytes: how many bytes of it.
        sha256: of these bytes, hexadecimal.
    """

    tensor: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Journal:
    """A journal that was read: its head, and the records whose sums fit."""

    head: Head
    records: tuple[Record, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that are finished, as far as its records say."""
        return sum({record.tensor: record.nbytes for record in self.records}.values())


def journal_path(file: Path) -> Path:
    """The journal of a file."""
    return file.with_name(f".{file.name}.journal")


def journals_in(folder: Path) -> dict[str, Path]:
    """The journals in a folder, by the name of the file that they are of."""
    return {path.name[1:].removesuffix(".journal"): path for path in sorted(folder.glob(".*.journal"))}


def remove_journals(folder: Path) -> None:
    """Remove the journals in a folder, and one that was being written."""
    for path in folder.glob(".*.journal*"):
        path.unlink()


def read_journal(path: Path) -> Journal | None:
    """Read a journal; None if there is none, or its head is damaged."""
    try:
        head, *lines = path.read_bytes().split(b"\n")
    except (OSError, ValueError):
        return None
    found = _content(head)
    if not isinstance(found, dict):
        return None
    return Journal(found, tuple(filter(None, map(_record, lines))))


class JournalWriter:
    """Appends records. Safe from any thread; a context manager that writes what is outstanding and closes it."""

    def __init__(
        self,
        path: Path,
        head: Head,
        records: Iterable[Record] = (),
        *,
        shown: Path | None = None,
        flush: Callable[[], None] | None = None,
    ) -> None:
        """Write a journal in place of any older one.

        Args:
            path: where.
            head: what the file is made from, as JSON values.
            records: what is finished already.
            shown: the path to show in errors, where *path* is a temporary one.
            flush: flushes the file to the disk. With it a record is written after what it is of is on the disk, and is
                flushed too; these two flushes happen every :data:`FLUSH_SECONDS`. None: what the system keeps in
                memory survives the process, but no power cut; it is written every :data:`WRITE_SECONDS`.

        Raises:
            OutputError: it cannot be written.
        """
        self._shown, self._flush = shown or path, flush
        self._order: dict[str, _Order] = {}
        self._pending: list[Record] = []
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._written = time.monotonic() if flush is not None else -WRITE_SECONDS
        new = path.with_name(f"{path.name}.new")
        lines = [_line(dict(head)), *map(_line_of, records)]
        try:
            new.write_bytes(b"".join(lines))
            if flush is not None:
                sync(new)
            os.replace(new, path)
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise write_error(self._shown, error) from None

    def begin_at(self, tensor: str, index: int) -> None:
        """Say that the pieces of a tensor before number *index* are finished, and recorded."""
        self._order[tensor] = _Order(index)

    def finished(self, index: int, record: Record) -> None:
        """Record piece number *index* of a tensor, as soon as all before it are finished too.

        Args:
            index: from 0.
            record: of all bytes up to the end of this piece.

        Raises:
            OutputError: the disk is full or has an error.
        """
        with self._lock:
            self._pending += self._order.setdefault(record.tensor, _Order()).add(index, record)
        seconds = WRITE_SECONDS if self._flush is None else FLUSH_SECONDS
        if time.monotonic() - self._written >= seconds and self._turn.acquire(blocking=False):
            try:
                self._write()
            finally:
                self._turn.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is outstanding, and close it."""
        try:
            with self._turn:
                self._write()
        finally:
            os.close(self._fd)

    def _write(self) -> None:
        """Write the outstanding records: by one thread at a time, so that no two lines mix."""
        with self._lock:
            records, self._pending = self._pending, []
        if not records:
            return
        try:
            if self._flush is not None:
                self._flush()  # what the records are of
            data = memoryview(b"".join(map(_line_of, records)))
            while data:
                data = data[os.write(self._fd, data) :]
            if self._flush is not None:
                os.fsync(self._fd)
        except OSError as error:
            raise write_error(self._shown, error) from None
        self._written = time.monotonic()


@dataclass(eq=False)
class _Order:
    """Lets the records of a tensor pass in order: many threads finish its pieces.

    Attributes:
        next: number of the first piece that is not finished.
        early: finished pieces after it.
    """

    next: int = 0
    early: dict[int, Record] = field(default_factory=dict)

    def add(self, index: int, record: Record) -> Iterator[Record]:
        """The records that may be written now."""
        self.early[index] = record
        while self.next in self.early:
            yield self.early.pop(self.next)
            self.next += 1


def _line_of(record: Record) -> bytes:
    return _line([record.tensor, record.nbytes, record.sha256])


def _line(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%s %s\n" % (_sum(text), text)


def _sum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_SUM_DIGITS].encode()


def _content(line: bytes) -> object:
    """What a line says; None if its sum does not fit, or it is not JSON: anybody can write a sum."""
    found, _, text = line.partition(b" ")
    try:
        return json.loads(text) if found == _sum(text) else None
    except (ValueError, RecursionError):
        return None


def _record(line: bytes) -> Record | None:
    match _content(line):
        case [str(tensor), int(nbytes), str(sha256)]:
            return Record(tensor, nbytes, sha256)
    return None
