"""Every file of a build's folders is accounted for: what would be passed over and may be wanted is refused.

The account itself is :mod:`quantkit.checkpoint.account`; here it is made for the model and its adapters together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from quantkit.adapter.start_folders import refuse_start
from quantkit.checkpoint.account import account
from quantkit.checkpoint.file_entry import READ_WEIGHTS, FileEntry
from quantkit.checkpoint.ignored import NOTHING, Ignored
from quantkit.checkpoint.known_files import Place
from quantkit.checkpoint.lfs import LFS
from quantkit.errors import AdapterError, CheckpointError, QuantkitError
from quantkit.hub.source import source_name
from quantkit.system.shell import command

_NAMED = 5  # files in a note or a hint


def check_every_file(model: Path, adapters: Sequence[Path], ignored: Ignored = NOTHING) -> tuple[str, ...]:
    """Refuse what would be passed over in the folders of a model and its adapters.

    A folder that is not a model's or an adapter's is left to those who open it.

    Args:
        model: the checkpoint's folder.
        adapters: the adapters' folders.
        ignored: what the user knows and does not want.

    Returns:
        Notes for the user.

    Raises:
        CheckpointError: naming a file of the model's folder, and what to do.
        AdapterError: the same for an adapter's.
        QuantkitError: ``--ignore`` names something that is read, or nothing.
    """
    if not (model / "config.json").is_file() or not all((one / "adapter_config.json").is_file() for one in adapters):
        return ()
    accounts: list[tuple[Path, tuple[FileEntry, ...]]] = []
    for folder, place in _folders(model, adapters):
        entries = account(folder, place, adapters, ignored)
        _refuse(folder, place, entries)
        accounts.append((folder, entries))
    for one in adapters:
        if not ignored.covers(one.name):
            refuse_start(one, model)
    _check_patterns(ignored, accounts, adapters)
    return tuple(note for folder, entries in accounts for note in _notes(folder, entries))


def _folders(model: Path, adapters: Sequence[Path]) -> Iterator[tuple[Path, Place]]:
    """Each folder once, the model's first."""
    yield model, "model"
    seen = {model.resolve()}
    for one in adapters:
        if (resolved := one.resolve()) not in seen:
            seen.add(resolved)
            yield one, "adapter"


def _refuse(folder: Path, place: Place, entries: Sequence[FileEntry]) -> None:
    refused = [entry for entry in entries if entry.role == "refused"]
    if not any(entry.role == "read" and entry.what in READ_WEIGHTS for entry in entries):
        refused = [entry for entry in refused if entry.cut_off]  # a folder without weights is refused for that
    if not refused:
        return
    first = refused[0]
    same = [entry.name.rstrip("/") for entry in refused if entry.what == first.what]
    words = [word for name in same[:_NAMED] for word in ("--ignore", name)]
    known = f"; if it is not needed, pass {command(*words)}" if _may_be_ignored(first) else ""
    more = f" (and {len(refused) - 1} more, which quantkit inspect lists)" if len(refused) > 1 else ""
    kind = CheckpointError if place == "model" else AdapterError
    raise kind(f"{folder / first.name}: {first.what}{more}", hint=f"{first.hint}{known}")


def _may_be_ignored(entry: FileEntry) -> bool:
    """Whether the hint has still to say so: some say it themselves, and a pointer stands for a file that is read."""
    return "--ignore" not in entry.hint and not entry.hint.startswith(LFS)


def _check_patterns(
    ignored: Ignored, accounts: Sequence[tuple[Path, Sequence[FileEntry]]], adapters: Sequence[Path]
) -> None:
    for pattern in ignored.patterns:
        found = [
            (folder, entry)
            for folder, entries in accounts
            for entry in entries
            if Ignored.covered_by(pattern, entry.name)
        ]
        for folder, entry in found:
            if entry.role == "read":
                raise QuantkitError(
                    f"{folder / entry.name}: --ignore {pattern!r} matches a file that is needed ({entry.what})",
                    hint="--ignore is for files that would be passed over; give their names, or another pattern",
                )
        if not found and not any(Ignored.covered_by(pattern, one.name) for one in adapters):
            raise QuantkitError(
                f"--ignore {pattern!r} matches no file in {', '.join(str(folder) for folder, _ in accounts)}",
                hint="give a name as quantkit inspect lists it, or a pattern such as 'checkpoint-*'",
            )


def _notes(folder: Path, entries: Sequence[FileEntry]) -> Iterator[str]:
    name = source_name(folder)
    for entry in entries:
        if entry.note:
            yield f"{name}: {entry.note}"
    if ignored := [entry.name for entry in entries if entry.role == "ignored"]:
        yield f"{name}: passed over, as asked: {', '.join(ignored)}"
    if unknown := [entry.name for entry in entries if entry.role == "unknown"]:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        yield f"{name}: passed over, because quantkit does not know them: {', '.join(unknown[:_NAMED])}{more}"
