"""The account of a folder: what each name in it, and one level down, is to quantkit.

Names decide, by the table in :mod:`quantkit.checkpoint.known_files`; a folder that is not in it is known by the files
in it. Of contents only the headers of a second set of weights are read, and the first bytes of what is read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantkit.checkpoint.ignored import NOTHING, Ignored
from quantkit.checkpoint.known_files import Known, Place, Role, known, unfinished
from quantkit.checkpoint.lfs import is_lfs_pointer, lfs_hint
from quantkit.checkpoint.weight_sets import WeightSet, difference, weight_sets
from quantkit.hub.tokenizer_files import VOCABULARIES, matches
from quantkit.system.shell import command

READ_WEIGHTS = ("weights", "the adapter's tensors")
"""What the weights are called that are read."""
# Adapters that training begins with: they are merged only as a part of what was trained from them.
START_FOLDERS = ("pissa_init", "loftq_init", "olora_init", "corda_init", "eva_init", "lora_ga_init")
# Adapters that TRL compares with in training.
_REFERENCES = ("reference", "ref")
_STEP_PREFIXES = ("checkpoint-", "checkpoint_", "step-", "step_", "epoch-", "epoch_", "epoch")


SHOWN: Mapping[Role, str] = {
    "read": "read",
    "harmless": "passed over",
    "alone": "passed over",
    "unknown": "unknown",
    "refused": "refused",
    "ignored": "ignored",
}
"""The roles in words."""


@dataclass(frozen=True)
class FileEntry:
    """A name of a folder.

    Attributes:
        name: relative to the folder, with ``/``, which also ends the name of a folder.
        role: ``read``; ``harmless`` and ``alone``: passed over; ``unknown``: passed over, and a build says so;
            ``refused``; ``ignored``: it would be refused, but the user said that it may be passed over.
        what: what it is, after the name and a colon.
        hint: what to do about a refused one.
        note: a sentence for the user, if there is something to know about what is passed over.
        cut_off: it may be why other files are missing, or are not what they seem.
    """

    name: str
    role: Role
    what: str
    hint: str = ""
    note: str = ""
    cut_off: bool = False


@dataclass(frozen=True)
class _Folder:
    """What is asked for: a folder, its kind, and the adapters' folders of the same build, resolved."""

    path: Path
    place: Place
    given: frozenset[Path]

    @property
    def merges_own(self) -> bool:
        """Whether an adapter in this folder, or one level down, is merged."""
        own = self.path.resolve()
        return any(one == own or one.parent == own for one in self.given)


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
        CheckpointError: an index of weights is broken.
    """
    folder = _Folder(path, place, frozenset(one.resolve() for one in adapters))
    names = sorted(os.listdir(path))
    weights = {entry.name: entry for entry in _weights(folder, ignored)}
    entries = [weights.get(name) or _entry(folder, name, names) for name in names]
    return tuple(_settled(entry, ignored) for entry in entries)


def _settled(entry: FileEntry, ignored: Ignored) -> FileEntry:
    if entry.role in ("refused", "unknown") and ignored.covers(entry.name):
        return replace(entry, role="ignored", hint="", note="")
    return entry


def _entry(folder: _Folder, name: str, names: Sequence[str]) -> FileEntry:
    path = folder.path / name
    if path.is_dir():
        return _folder_entry(folder, name)
    if unfinished(name) is not None and (entry := _download(folder, name)):
        return entry
    row = known(name, folder.place)
    if row is None:
        return FileEntry(name, "unknown", "a file that quantkit does not know")
    if folder.place == "model" and folder.path.resolve() in folder.given and (own := known(name, "adapter")):
        row = own if own.role == "read" else row
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


def _download(folder: _Folder, name: str) -> FileEntry | None:
    """An unfinished download, unless it is of a file that is passed over."""
    meant = unfinished(name)
    assert meant is not None
    row = known(meant, folder.place)
    if row is not None and row.role in ("harmless", "alone"):
        return FileEntry(name, "harmless", f"an unfinished download of {meant}, which is passed over")
    return None


def _weights(folder: _Folder, ignored: Ignored) -> Iterator[FileEntry]:
    """The entries of weight files and their indexes."""
    if folder.place == "adapter":
        yield from _adapter_weights(folder, ignored)
        return
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


def _adapter_weights(folder: _Folder, ignored: Ignored) -> Iterator[FileEntry]:
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


def _folder_entry(folder: _Folder, name: str) -> FileEntry:
    """The entry of a folder in the folder: by its name, or by the files in it."""
    path, label = folder.path / name, f"{name}/"
    row = known(label, folder.place)
    if row is not None:
        if name == "._____temp" and not any(file.is_file() for file in path.rglob("*")):
            return FileEntry(label, "harmless", "an empty folder of ModelScope")
        if name == ".cache" and (left := next(path.rglob("*.incomplete"), None)) is not None:
            return FileEntry(
                f"{left.relative_to(folder.path).as_posix()}",
                "refused",
                "an unfinished download of Hugging Face's client",
                "run hf download again; if the folder is complete, delete this file",
                cut_off=True,
            )
        return FileEntry(label, row.role, row.what, row.hint, cut_off=row.cut_off)
    try:
        inner = [one.name for one in path.iterdir() if not one.name.startswith(".") and one.is_file()]
    except OSError:
        return FileEntry(label, "unknown", "a folder that cannot be read")
    return _by_content(folder, label, path, inner)


def _by_content(folder: _Folder, label: str, path: Path, inner: Collection[str]) -> FileEntry:
    if path.resolve() in folder.given:
        return FileEntry(label, "read", "an adapter that is merged")
    weights = [name for name in inner if (row := known(name, "model")) and _is_tensors(name, row)]
    step = label.lower().startswith(_STEP_PREFIXES)
    if "adapter_config.json" in inner:
        return _adapter_below(folder, label, path, step)
    if "config.json" in inner and weights:
        what = "a checkpoint of the same training" if step else "a model of its own"
        return FileEntry(label, "harmless", what, note=f"{label} has {what}, which is passed over")
    if weights:
        return FileEntry(
            label,
            "refused",
            f"a folder with tensors that would be passed over ({min(weights)})",
            "if they belong to the model, save it again with save_pretrained, which writes them into one folder",
        )
    if any((row := known(name, "model")) is not None and row.role == "alone" for name in inner):
        return FileEntry(label, "alone", "other formats or training state")
    if found := [name for name in inner if matches(name, VOCABULARIES)]:
        return _tokenizer_below(folder, label, path, found)
    return FileEntry(label, "harmless", "a folder without weights, tokenizers and adapters")


def _is_tensors(name: str, row: Known) -> bool:
    return row.role == "refused" and name.endswith((".safetensors", ".bin"))


def _adapter_below(folder: _Folder, label: str, path: Path, step: bool) -> FileEntry:
    name = label.rstrip("/")
    if step and (folder.place == "adapter" or folder.merges_own):
        return FileEntry(label, "harmless", "an earlier step of the adapter's training")
    if folder.place == "adapter" and (name in _REFERENCES or name.startswith("pissa_") or name in START_FOLDERS):
        return FileEntry(label, "harmless", "an adapter that training began with or compared with")
    if folder.given and name in START_FOLDERS:
        return FileEntry(label, "harmless", "the adapter that training began with")
    return FileEntry(
        label,
        "refused",
        "an adapter that would be passed over",
        f"pass {command('--adapter', path)} to merge it; if it is merged already or not meant, pass "
        f"{command('--ignore', name)}",
    )


def _tokenizer_below(folder: _Folder, label: str, path: Path, found: Collection[str]) -> FileEntry:
    """A folder with a tokenizer: harmless if it is a copy of the one that is read."""
    for name in found:
        own = folder.path / name
        if not own.is_file() or own.read_bytes() != (path / name).read_bytes():
            return FileEntry(
                label,
                "refused",
                f"a folder with a tokenizer that would be passed over ({name})",
                f"if it is the model's, copy its files into {command(folder.path)}",
            )
    return FileEntry(label, "harmless", "a copy of the tokenizer")
