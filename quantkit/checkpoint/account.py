"""The account of a folder: what each name in it, and one level down, is to quantkit.

Names decide, by the table in :mod:`quantkit.checkpoint.known_files`; a folder that is not in it is known by the files
in it. Of contents only the headers of a second set of weights are read, and the first bytes of what is read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from quantkit.checkpoint.copies import original
from quantkit.checkpoint.file_entry import READ_WEIGHTS, Asked, FileEntry
from quantkit.checkpoint.ignored import NOTHING, Ignored
from quantkit.checkpoint.known_files import LICENSE, Known, Place, known, unfinished
from quantkit.checkpoint.lfs import is_lfs_pointer, lfs_hint
from quantkit.checkpoint.subfolders import folder_entry
from quantkit.checkpoint.weight_sets import WeightSet, difference, weight_sets
from quantkit.errors import CheckpointError
from quantkit.system.shell import command


def account(
    path: Path, place: Place, adapters: Collection[Path] = (), ignored: Ignored = NOTHING
) -> tuple[FileEntry, ...]:
    """The account of a model's or an adapter's folder, in the order of the names.

    Args:
        path: the folder.
        place: what it is.
        adapters: the adapters that are merged, some of which may be in this folder or below it.
        ignored: what the user knows and does not want.

    Raises:
        CheckpointError: an index of weights is broken, or the folder cannot be read.
    """
    folder = Asked(path, place, frozenset(one.resolve() for one in adapters))
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error})", hint="check the folder's permissions"
        ) from None
    weights = {entry.name: entry for entry in _weights(folder, ignored)}
    entries = [weights.get(name) or _entry(folder, name, names) for name in names]
    return tuple(_settled(entry, ignored) for entry in entries)


def _settled(entry: FileEntry, ignored: Ignored) -> FileEntry:
    if entry.role in ("refused", "unknown") and ignored.covers(entry.name):
        return replace(entry, role="ignored", hint="", note="")
    return entry


def _entry(folder: Asked, name: str, names: Sequence[str]) -> FileEntry:
    path = folder.path / name
    row = known(name, folder.place)
    if path.is_dir():
        named = row is not None and row.role == "read" and row.what != LICENSE
        return _no_file(path, name) if named else folder_entry(folder, name)
    if row is not None and row.role in ("read", "refused") and not path.is_file():
        return _no_file(path, name)
    if unfinished(name) is not None and (entry := _download(folder, name)):
        return entry
    if (meant := original(name)) is not None and (entry := _copy(folder, name, meant)):
        return entry
    if row is None:
        return FileEntry(name, "unknown", "a file that quantkit does not know")
    if folder.place == "model" and folder.path.resolve() in folder.given and (own := known(name, "adapter")):
        row = own if own.role == "read" else row
    if row.role == "read" and row.what == READ_WEIGHTS[1]:  # those that count have an entry already
        return FileEntry(name, "ignored", row.what)
    if row.role == "read" and is_lfs_pointer(path):
        return _pointer(path, name)
    if (
        row.role == "refused"
        and name == "adapter_config.json"
        and not any(one.startswith("adapter_model.") for one in names)
    ):
        note = f"{name} is left of an adapter whose tensors are not in the folder; it is passed over"
        return FileEntry(name, "harmless", "left of an adapter whose tensors are not in the folder", note=note)
    return FileEntry(name, row.role, row.what, _filled(row, folder.path), cut_off=row.cut_off)


def _filled(row: Known, folder: Path) -> str:
    return row.hint.replace("{folder}", command(folder))


def _pointer(path: Path, name: str) -> FileEntry:
    return FileEntry(name, "refused", "a git-lfs pointer, not the file itself", lfs_hint(path), cut_off=True)


def _no_file(path: Path, name: str) -> FileEntry:
    """The entry of what has the name of a file that counts, and is none: a link that leads nowhere, a folder, ..."""
    what, hint = "a folder under the name of a file", "give the folder another name"
    if not path.is_dir():
        what, hint = "not a regular file", "put the file itself in its place"
        if path.is_symlink():
            what, hint = f"a link to {os.readlink(path)}, which is not there", "download the folder again"
    return FileEntry(name, "refused", what, hint, cut_off=True)


def _copy(folder: Asked, name: str, meant: str) -> FileEntry | None:
    """A second copy of a small file that is read; None if it is the copy of another one."""
    row = known(meant, folder.place)
    if row is None or row.role != "read" or row.what in READ_WEIGHTS:
        return None
    file = folder.path / meant
    if not file.is_file():
        return FileEntry(name, "refused", f"a copy of {meant}, which is missing", f"name it {meant}")
    if file.read_bytes() == (folder.path / name).read_bytes():
        return FileEntry(name, "harmless", f"a copy of {meant}")
    return FileEntry(
        name,
        "refused",
        f"another version of {meant}, which is the one that is read",
        f"delete one of the two; the one that is meant has to be called {meant}",
    )


def _download(folder: Asked, name: str) -> FileEntry | None:
    """An unfinished download, unless it is of a file that is passed over."""
    meant = unfinished(name)
    assert meant is not None
    row = known(meant, folder.place)
    if row is not None and row.role in ("harmless", "alone"):
        return FileEntry(name, "harmless", f"an unfinished download of {meant}, which is passed over")
    return None


def _weights(folder: Asked, ignored: Ignored) -> Iterator[FileEntry]:
    """The entries of weight files and their indexes."""
    if folder.place == "adapter":
        yield from _adapter_weights(folder, ignored)
        return
    if folder.path.resolve() in folder.given:
        yield from _adapter_weights(folder, ignored)
    sets = weight_sets(folder.path, ignored)
    if not sets:
        return
    used, listed = sets[0], {file.name for file in sets[0].files}
    for file in used.files:
        yield _pointer(file, file.name) if is_lfs_pointer(file) else FileEntry(file.name, "read", READ_WEIGHTS[0])
    if used.index is not None:
        yield _index(folder.path, used, sets[1:])
    for other in sets[1:]:
        said = difference(used, other) if not used.missing else None
        names = [file.name for file in other.files if file.is_file()] + ([other.index.name] if other.index else [])
        for name in names:
            if name not in listed:
                yield _second_set(name, used, other, said, folder.path)


def _index(path: Path, used: WeightSet, others: Sequence[WeightSet]) -> FileEntry:
    """The entry of the index that is used: refused if its files are missing and other shards are complete."""
    assert used.index is not None
    if used.missing and (whole := [one for one in others if not one.missing]):
        return FileEntry(
            used.index.name,
            "refused",
            f"the index and the files disagree: it lists {used.missing[0]}, which is missing, but the weights "
            f"{whole[0].label} are complete",
            f"if {whole[0].label} are the model's, delete {used.index.name} or pass "
            f"{command('--ignore', used.index.name)}; if not, download the files that it lists",
            cut_off=True,
        )
    return FileEntry(used.index.name, "read", "the index of the weights")


def _second_set(name: str, used: WeightSet, other: WeightSet, said: str | None, path: Path) -> FileEntry:
    if used.missing:
        return FileEntry(name, "harmless", "weights that the index does not list")
    if said is None:
        return FileEntry(name, "harmless", f"the weights of {used.label} once more")
    newer = max(used, other, key=lambda one: max((f.stat().st_mtime_ns for f in one.files if f.is_file()), default=0))
    return FileEntry(
        name,
        "refused",
        f"a second set of weights beside {used.label}, which is the one that is read: {said}",
        f"delete the set that is not meant ({newer.label} is the newer one), or choose one: "
        f"{command('--ignore', used.pattern)} or {command('--ignore', other.pattern)}",
    )


def _adapter_weights(folder: Asked, ignored: Ignored) -> Iterator[FileEntry]:
    files = [
        WeightSet((file,))
        for name in ("adapter_model.safetensors", "adapter_model.bin")
        if (file := folder.path / name).is_file() and not ignored.covers(name)
    ]
    for one in files[:1]:
        file = one.files[0]
        pointer = is_lfs_pointer(file)
        yield _pointer(file, file.name) if pointer else FileEntry(file.name, "read", READ_WEIGHTS[1])
    for one in files[1:]:
        yield _second_set(one.files[0].name, files[0], one, difference(files[0], one), folder.path)
