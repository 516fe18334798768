"""Power cuts, simulated: the calls of a run are recorded, and replayed up to each of them.

After a cut, what was flushed is there. Of the rest an adversary decides: names that were made, renamed or removed since
their folder was flushed are so or are not, in their order or (stricter than any journal) each for itself; a file has
the content of its last flush, or zeros, or what was written.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from tests.support.campaign.amounts import Amounts
from tests.support.campaign.layer import ALLOCATE, CREATE, LINK, REMOVE, RENAME, SYNC, WRITE, Fault
from tests.support.campaign.subjects import ABSENT, NEW, OLD
from tests.support.campaign.trials import Bench, Notes, Row

_HEAD = struct.Struct("<IIIIQQQ")
_EXCHANGE = 2  # the kernel's RENAME_EXCHANGE; of a rename, the record's offset has the flags
_STRICT = 4  # random adversaries for each cut


@dataclass(frozen=True)
class Record:
    """One call that changed something."""

    kind: int
    path: str
    other: str
    inode: int
    offset: int
    data: bytes


@dataclass
class File:
    """What a file has, and what of it is on the disk."""

    data: bytearray
    flushed: bytes = b""

    def after_a_cut(self, how: int) -> bytes:
        """0: what was flushed, 1: zeros where nothing was flushed, 2: all."""
        if how == 2 or self.data == self.flushed:
            return bytes(self.data)
        return self.flushed if how == 0 else self.flushed + bytes(max(0, len(self.data) - len(self.flushed)))


Tree = dict[str, "File | Tree"]


@dataclass
class Change:
    """A change of names, and whether a flush of its folder came after it."""

    apply: Callable[[Tree], None]
    folders: frozenset[str]
    flushed: bool = False


def read_log(path: Path) -> Iterator[Record]:
    """The records of a log, in order."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        kind, length, other, _, inode, offset, size = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        parts = []
        for count in (length, other, size if kind == WRITE else 0):
            parts.append(content[at : at + count])
            at += count
        yield Record(kind, parts[0].decode(), parts[1].decode(), inode, offset, parts[2])


@dataclass
class Disk:
    """A folder, as the calls of a run have changed it."""

    root: str
    before: Tree
    changes: list[Change] = field(default_factory=list)
    files: dict[int, File] = field(default_factory=dict)

    def take(self, record: Record) -> bool:
        """Apply a call; whether it changed something here."""
        inside = [path for path in (record.path, record.other) if path.startswith(self.root + "/")]
        if record.path == self.root and record.kind == SYNC:
            inside = [self.root]
        if not inside:
            return False
        if record.kind == WRITE and record.inode in self.files:
            data, end = self.files[record.inode].data, record.offset + len(record.data)
            data.extend(bytes(max(0, end - len(data))))
            data[record.offset : end] = record.data
        elif record.kind == ALLOCATE and record.inode in self.files:
            data = self.files[record.inode].data
            data.extend(bytes(max(0, record.offset - len(data))))
        elif record.kind == SYNC:
            self._flush(record)
        elif record.kind == CREATE:
            self._create(record)
        elif record.kind in (RENAME, LINK, REMOVE):
            self._name(record)
        return True

    def after_a_cut(self, survives: Callable[[int, Change], bool]) -> Tree:
        """The names that are there."""
        tree = _copy(self.before)
        for number, change in enumerate(self.changes):
            if change.flushed or survives(number, change):
                change.apply(tree)
        return tree

    def _flush(self, record: Record) -> None:
        if record.inode in self.files:
            file = self.files[record.inode]
            file.flushed = bytes(file.data)
        for change in self.changes:
            change.flushed |= record.path in change.folders

    def _create(self, record: Record) -> None:
        name = self._short(record.path)
        if record.other == "/":
            self._change(lambda tree: _put(tree, name, {}), record.path)
            return
        now = self.after_a_cut(lambda number, change: True)
        found = _get(now, name)
        if isinstance(found, File):
            if record.other == "truncate":
                found.data.clear()
            self.files[record.inode] = found
            return
        file = self.files[record.inode] = File(bytearray())
        self._change(lambda tree: _put(tree, name, file), record.path)

    def _name(self, record: Record) -> None:
        path, other = self._short(record.path), self._short(record.other)
        if record.kind == REMOVE:
            self._change(lambda tree: _take(tree, path) and None, record.path)
        elif record.kind == RENAME:
            move = _swap if record.offset & _EXCHANGE else _move
            self._change(lambda tree: move(tree, path, other), record.path, record.other)
        else:
            # A file from outside, such as an input, is on the disk.
            content = Path(record.other).read_bytes()
            outside = File(bytearray(content), content)
            self._change(lambda tree: _put(tree, path, _get(tree, other) or outside), record.path)

    def _change(self, apply: Callable[[Tree], None], *paths: str) -> None:
        self.changes.append(Change(apply, frozenset(os.path.dirname(path) for path in paths)))

    def _short(self, path: str) -> tuple[str, ...]:
        return Path(path).relative_to(self.root).parts if path.startswith(self.root + "/") else ()


def power(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """A power cut after each call of a run, and after its end."""
    row = Row("power cut after a call", bench.subject.name)
    place, runner = bench.runner.place, bench.runner
    place.clear()
    bench.subject.set_up(place)
    runner.log.unlink(missing_ok=True)
    files: dict[int, File] = {}
    disk = Disk(str(place.outputs), _read(place.outputs, files), files=files)
    ended = runner.start(bench.subject.arguments, fault=Fault("record")).end()
    records = list(read_log(runner.log))
    scratch = place.root / "after"
    for number, record in enumerate(records, 1):
        last = number == len(records)
        if disk.take(record) or last:
            for how, tree in _adversaries(disk, random):
                note = Notes(row, f"{bench.subject.name}: power cut after call {number} of {len(records)}, {how}")
                row.tried += 1
                state = _judge(bench, tree, scratch, how)
                if state not in (ABSENT, OLD, NEW):
                    note("wrong", state)
                if last and ended.code == 0 and state != NEW:
                    note("lost", f"the run has ended well, and its output is {state}")
                if bench.subject.overwrites and state == ABSENT and not _aside(bench, tree, scratch):
                    note("lost", "neither the older output nor the new one is there")
                row.done += state == NEW
                row.ended += state != NEW
    shutil.rmtree(scratch, ignore_errors=True)
    return row


def _adversaries(disk: Disk, random: Random) -> Iterator[tuple[str, Tree]]:
    least = max((number for number, change in enumerate(disk.changes) if change.flushed), default=-1)
    some = random.randint(least, len(disk.changes))
    for name, most in (("no more names", least), ("all names", len(disk.changes)), (f"names up to {some}", some)):
        tree = disk.after_a_cut(lambda number, change, most=most: number <= most)  # type: ignore[misc]
        for how in (0, 1):
            yield f"{name}, data {how}", _with_data(tree, partial(int, how))
    for turn in range(_STRICT):
        lot = Random(random.random())
        tree = disk.after_a_cut(lambda number, change, lot=lot: lot.random() < 0.5)  # type: ignore[misc]
        yield f"each for itself {turn}", _with_data(tree, partial(lot.randrange, 3))


def _with_data(tree: Tree, how: Callable[[], int]) -> Tree:
    made: Tree = {}
    for name, entry in tree.items():
        made[name] = File(bytearray(entry.after_a_cut(how()))) if isinstance(entry, File) else _with_data(entry, how)
    return made


def _judge(bench: Bench, tree: Tree, scratch: Path, how: str) -> str:
    shutil.rmtree(scratch, ignore_errors=True)
    entry = tree.get("out")
    if entry is not None:
        _write(entry, scratch)
    return bench.right.judge(bench.subject, scratch)


def _aside(bench: Bench, tree: Tree, scratch: Path) -> bool:
    """Whether the older output is under the name that the next run looks at."""
    for name, entry in tree.items():
        if name.startswith(".out.quantkit-old-"):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.unlink(missing_ok=True)
            _write(entry, scratch)
            if bench.right.judge(bench.subject, scratch) == OLD:
                return True
    return False


def _write(entry: File | Tree, path: Path) -> None:
    path.unlink(missing_ok=True) if path.is_file() else None
    if isinstance(entry, File):
        path.write_bytes(entry.data)
        return
    path.mkdir()
    for name, inner in entry.items():
        _write(inner, path / name)


def _read(folder: Path, files: dict[int, File]) -> Tree:
    """What is in a folder, all on the disk; and its files, by inode."""
    found: Tree = {}
    for path in folder.iterdir():
        if path.is_dir():
            found[path.name] = _read(path, files)
        else:
            found[path.name] = files[path.stat().st_ino] = File(bytearray(path.read_bytes()), path.read_bytes())
    return found


def _copy(tree: Tree) -> Tree:
    return {name: entry if isinstance(entry, File) else _copy(entry) for name, entry in tree.items()}


def _folder(tree: Tree, parts: Sequence[str]) -> Tree | None:
    for part in parts:
        entry = tree.get(part)
        if not isinstance(entry, dict):
            return None
        tree = entry
    return tree


def _get(tree: Tree, parts: Sequence[str]) -> File | Tree | None:
    folder = _folder(tree, parts[:-1]) if parts else None
    return None if folder is None else folder.get(parts[-1])


def _put(tree: Tree, parts: Sequence[str], entry: File | Tree) -> None:
    folder = _folder(tree, parts[:-1])
    if folder is not None:
        folder[parts[-1]] = entry if isinstance(entry, File) else dict(entry)


def _take(tree: Tree, parts: Sequence[str]) -> File | Tree | None:
    folder = _folder(tree, parts[:-1])
    return None if folder is None else folder.pop(parts[-1], None)


def _move(tree: Tree, path: Sequence[str], other: Sequence[str]) -> None:
    to = _get(tree, other)
    if isinstance(to, dict) and to:  # no rename replaces a folder that is not empty
        return
    entry = _take(tree, path)
    if entry is not None:
        _put(tree, other, entry)


def _swap(tree: Tree, path: Sequence[str], other: Sequence[str]) -> None:
    one, two = _get(tree, path), _get(tree, other)
    if one is not None and two is not None:
        _take(tree, path), _take(tree, other)
        _put(tree, path, two), _put(tree, other, one)
