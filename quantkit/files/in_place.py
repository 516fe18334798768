"""Changes the beginning of a file where it lies, so that a kill or a power cut in the middle does no harm.

What is to be written is first written to a small file beside it, with what is there before. Whoever opens the file
later finds that one and finishes what was begun: each byte is then one or the other, and becomes the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.fileio import blocks, sync, write_at
from quantkit.files.output_file import write_error
from quantkit.system.folder_lock import lock_folder

_BLOCK = 512  # bytes; a sector
_MARK = "quantkit-edit"


@dataclass(frozen=True)
class _Begun:
    """A change that was begun.

    Attributes:
        size: of the file.
        first: where it begins.
        old, new: bytes from there on, equally many.
    """

    size: int
    first: int
    old: bytes
    new: bytes


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Change a file while no other run does; also one that replaces it by a new file of its name.

    Raises:
        OutputError: another run changes it.
    """
    while True:
        try:
            lock = lock_folder(path)
        except BlockingIOError:
            raise OutputError(
                f"{path}: another run is changing it", hint="run the same command again when that one has ended"
            ) from None
        except OSError:  # whoever reads it says why
            lock = None
        if lock is None or _is_at(lock, path):
            break
        os.close(lock)  # it was replaced before it was locked
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _is_at(fd: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


def may_change(path: Path) -> bool:
    """Whether a file is under no other name: what another name shows must not change with it."""
    return not path.is_symlink() and path.stat().st_nlink == 1


def change_beginning(path: Path, old: bytes, new: bytes) -> None:
    """Write what differs between two beginnings of the same length, and flush it to the disk.

    Args:
        path: the file.
        old: what it begins with.
        new: what it is to begin with.

    Raises:
        OutputError: it cannot be written. Then nothing is changed or, on a disk that does not let that be undone,
            :func:`finish_change` does the rest.
    """
    assert len(old) == len(new), (len(old), len(new))
    if old == new:
        return
    different = [at for at in range(0, len(new), _BLOCK) if old[at : at + _BLOCK] != new[at : at + _BLOCK]]
    first, last = different[0], different[-1] + _BLOCK
    try:
        change = _Begun(path.stat().st_size, first, old[first:last], new[first:last])
        beside = _beside(path)
        try:
            _write(_unfinished(path), _encode(change))
            os.replace(_unfinished(path), beside)
            sync(path.parent)
        except BaseException:
            _unfinished(path).unlink(missing_ok=True)
            beside.unlink(missing_ok=True)
            raise
        try:
            _apply(path, change.first, change.new)
        except BaseException:
            with suppress(OSError):  # then what is beside it stays, for whoever opens the file later
                if _range(path, change) != change.old:
                    _apply(path, change.first, change.old)
                beside.unlink(missing_ok=True)
            raise
        beside.unlink(missing_ok=True)  # who has read the file meanwhile may have done it
    except OSError as error:
        raise write_error(path, error) from None


def finish_change(path: Path, *, clear: bool = False) -> None:
    """Finish a change of a file that a kill or a power cut has interrupted; nothing, if there is none.

    What lies beside another file by now, which has the name of the one that was changed, is only removed.

    Args:
        path: the file.
        clear: remove what a run left that was killed before it changed the file; it must not run any more.

    Raises:
        OutputError: it cannot be written.
    """
    beside = _beside(path)
    try:
        # Path.is_file would raise where the file's own name is so long that no other can be beside it.
        if clear and os.path.isfile(_unfinished(path)):
            _unfinished(path).unlink()
        if not os.path.isfile(beside):
            return
        change = _decode(beside.read_bytes())
        if change is not None and path.is_file() and _is_of(path, change):
            _apply(path, change.first, change.new)
        beside.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from None


def _apply(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
    try:
        write_at(fd, memoryview(data), offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_of(path: Path, change: _Begun) -> bool:
    """Whether the file has at each place what was there, or what was to be there."""
    if path.stat().st_size != change.size:
        return False
    found = _range(path, change)
    return len(found) == len(change.new) and all(
        byte in (old, new) for byte, old, new in zip(found, change.old, change.new, strict=True)
    )


def _range(path: Path, change: _Begun) -> bytes:
    """What the file has where the change is."""
    return b"".join(blocks(path, change.first, len(change.new)))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_MARK}")


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_MARK}-new")


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    try:
        write_at(fd, memoryview(data), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _encode(change: _Begun) -> bytes:
    """A line of JSON, the old bytes and the new ones."""
    data = change.old + change.new
    head = {"size": change.size, "first": change.first, "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(head).encode() + b"\n" + data


def _decode(content: bytes) -> _Begun | None:
    """None if it is not whole: then nothing was written after it."""
    line, _, data = content.partition(b"\n")
    try:
        head = json.loads(line)
        size, first, sha256 = int(head["size"]), int(head["first"]), head["sha256"]
    except (ValueError, TypeError, KeyError):
        return None
    if hashlib.sha256(data).hexdigest() != sha256 or len(data) % 2 or first < 0:
        return None
    half = len(data) // 2
    return _Begun(size, first, data[:half], data[half:])
