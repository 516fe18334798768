"""Clears what killed runs left of an output, before the next run begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.leftovers import (
    Leftover,
    finished_bytes,
    has_begun,
    leftovers,
    make_way,
    prune,
    remove,
    scratch_path,
    temporary_path,
)
from quantkit.system.units import size


def restore(final: Path, found: Iterable[Leftover]) -> None:
    """Give an output that was moved aside its name back, or remove it if it has a successor."""
    for aside in (one.path for one in found if one.aside):
        if os.path.lexists(final):
            remove(aside)
        else:
            os.rename(aside, final)


def clean_after_killed_runs(
    final: Path, *, overwrite: bool, resume: bool | None = None, note: Callable[[str], None] = lambda text: None
) -> tuple[Path, ...]:
    """Remove what killed runs left of this output; restore an output that was moved away and has no successor.

    Args:
        final: the output.
        overwrite, resume, note: as for :func:`workspace`.

    Returns:
        The folders that are to be continued.

    Raises:
        OutputError: something can be continued, and nobody has said what to do with it.
    """
    found = list(leftovers(final, note if resume else None))
    restore(final, found)
    folders = [one.path for one in found if not one.aside]
    if has_begun(folders) and not overwrite and not resume:
        done, whole = finished_bytes(folders)
        how = "continue it with the command that began it and --resume" if resume is None else "pass --resume"
        raise OutputError(
            f"{final}: a run that was killed has finished {size(done)} of {size(whole)} of it",
            hint=f"{how}, or pass --overwrite to begin again",
        )
    if not resume:
        for folder in folders:
            remove(folder)
        return ()
    own = temporary_path(final)
    if own in folders or scratch_path(own) in folders:
        make_way(own)
        folders = [one.path for one in leftovers(final) if not one.aside]
    return prune(folders)
