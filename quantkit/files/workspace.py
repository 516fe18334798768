"""The folder or file that is being written: temporary, next to its final path, and renamed when it is complete.

The files of a killed run are removed by the next run for the same output, and never by another one; what of them can be
continued is continued if the user says so, and is not removed without permission.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.cleaning import clean_after_killed_runs
from quantkit.files.exchange import exchange
from quantkit.files.fileio import sync
from quantkit.files.journal import remove_journals
from quantkit.files.leftovers import (
    Part,
    aside_path,
    begun_files,
    find_part,
    has_begun,
    hold,
    prune,
    remove,
    scratch_path,
    temporary_path,
)
from quantkit.files.output_file import write_error
from quantkit.files.publication import announce, take_back, withdraw
from quantkit.files.replaceable import Mark, check_free, check_free_folder
from quantkit.files.signs_of_life import heartbeat
from quantkit.system.shell import command


@dataclass(frozen=True)
class Workspace:
    """A temporary folder next to the output that it will become.

    Attributes:
        path: the temporary folder.
        final: the output.
        overwrite: replace an existing output.
        fsync: flush to the disk before and after the rename.
        inputs: files and folders that are read, which no output may replace.
        file: the output is a file, or several files in one folder.
        mark: what this kind of folder has; others are never replaced.
        resume: continue what earlier runs left, and leave what a later run may continue.
        earlier: folders that killed runs left, if *resume*.
    """

    path: Path
    final: Path
    overwrite: bool
    fsync: bool = False
    inputs: tuple[Path, ...] = ()
    file: bool = False
    mark: Mark | None = None
    resume: bool = False
    earlier: tuple[Path, ...] = ()
    _published: list[Path] = field(default_factory=list, repr=False)

    @property
    def place(self) -> Path:
        """The folder that will contain the files."""
        return self.final.parent if self.file else self.final

    def scratch(self) -> Path:
        """A folder for intermediate files, created on the first call and removed with the workspace."""
        path = scratch_path(self.path)
        path.mkdir(exist_ok=True)
        return path

    def part(self, file: str) -> Part | None:
        """What killed runs left of a file; None if there is nothing."""
        return find_part(self.earlier, file)

    def reserve(self, names: Sequence[str]) -> None:
        """Check before the work that files with these names (parts of a split model) may be written next to the output.

        Raises:
            OutputError: a file exists and may not be replaced, or is an input or a folder.
        """
        for name in names:
            if name != self.final.name:
                _check_output(self.place / name, self.inputs, overwrite=self.overwrite, file=True, mark=None)
                clean_after_killed_runs(self.place / name, overwrite=self.overwrite)

    @property
    def failed(self) -> Path:
        """The name of an output that failed its checks."""
        return self.final.with_name(self.final.name + ".failed")

    def reserve_failed(self) -> None:
        """Check before the work that :attr:`failed` is free, or an older failure, which needs no permission.

        Raises:
            OutputError: a folder with that name is something else.
        """
        check_free_folder(self.failed, self.mark, overwrite=True)

    def publish(self, *, failed: bool = False, names: Sequence[str] = ()) -> Path:
        """Rename the folder to the output, or to :attr:`failed`.

        Args:
            failed: to :attr:`failed`.
            names: files that must be there: somebody may have removed the folder in the middle.

        Raises:
            OutputError: one of them is gone; or the output exists, or cannot be written.
        """
        for name in names:
            if not (self.path / name).is_file():
                raise OutputError(
                    f"{self.final / name}: was removed while the output was made",
                    hint="build it again, when no program removes files there",
                )
        final, overwrite = (self.failed, True) if failed else (self.final, self.overwrite)
        remove_journals(self.path)  # before the flush: a power cut must not bring them back
        self._flush()
        check_free_folder(final, self.mark, overwrite=overwrite)
        replace_all([(self.path, final)], self._flush_name)
        self._published.append(final)
        return final

    def publish_files(self, names: Sequence[str]) -> Path:
        """Rename the files with these names in the folder to the output, all or none.

        Returns:
            The first of them.
        """
        announce(self.path, names)
        self._flush()
        for name in names:
            check_free(self.place / name, overwrite=self.overwrite)
        try:
            replace_all([(self.path / name, self.place / name) for name in names], self._flush_name)
        except OutputError:
            withdraw(self.path)
            raise
        self._published.append(self.place / names[0])
        return self.place / names[0]

    def _flush(self) -> None:
        if self.fsync:
            for path in (*self.path.rglob("*"), self.path):
                sync(path)

    def _flush_name(self) -> None:
        if self.fsync:
            sync(self.final.parent)


@contextmanager
def workspace(
    final: Path,
    *,
    overwrite: bool,
    inputs: Sequence[Path] = (),
    file: bool = False,
    fsync: bool = False,
    mark: Mark | None = None,
    resume: bool | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Workspace]:
    """A workspace for *final*; anything that is not published is removed at the end.

    Args:
        final: the output.
        overwrite: replace it if it exists, and what a killed run left of it.
        inputs: files and folders that are read, which the output must not replace.
        file: the output is a file. A file never replaces a folder with its name, nor a folder a file.
        fsync: flush the output to the disk before the rename, and the rename after it.
        mark: what an older output of this kind has; a folder without it is never replaced.
        resume: continue what a killed run left; if this one fails or is interrupted, leave what can be continued. None
            for work that cannot be continued.
        note: told what is left.

    Raises:
        OutputError: *final* exists and may not be replaced, it cannot be written, or a killed run left what can be
            continued, and neither *resume* nor *overwrite* says what to do.
    """
    final = Path(os.path.abspath(final))
    try:
        take_back(final)
    except OSError as error:
        raise write_error(final, error) from None
    _check_output(final, inputs, overwrite=overwrite, file=file, mark=mark)
    temporary = temporary_path(final)
    try:
        new = [folder for folder in final.parents if not folder.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
        for folder in new if fsync else ():  # a power cut must not take the folders around the output
            sync(folder.parent)
        earlier = clean_after_killed_runs(final, overwrite=overwrite, resume=resume, note=note)
        _check_free(final, overwrite=overwrite, file=file, mark=mark)  # an old output may have been restored
        _remove_temporary(temporary)
    except OSError as error:
        raise write_error(final, error) from None
    work = Workspace(temporary, final, overwrite, fsync, tuple(inputs), file, mark, bool(resume), earlier)
    finished, lock = False, None
    try:
        temporary.mkdir()  # in here, so that it is removed whenever a signal comes
        lock = hold(temporary)
        with heartbeat(temporary):
            yield work
        finished = True
    except OSError as error:
        # Code that reads inputs raises its own errors, so this is the output's disk.
        raise write_error(final, error) from None
    finally:
        if finished or work._published:
            for path in (file for folder in earlier for file, _ in begun_files(folder) if file.is_file()):
                note(f"{path.name}, which a killed run had begun, is not part of this one and is removed")
            for folder in earlier:
                remove(folder)
            _remove_temporary(temporary)
        elif resume and has_begun((temporary, scratch_path(temporary))):
            prune([path for path in (*earlier, temporary, scratch_path(temporary)) if path.exists()])
            note("what is finished is kept: run the same command again to continue it")
        else:
            _remove_temporary(temporary)
        if lock is not None:
            os.close(lock)


def _remove_temporary(path: Path) -> None:
    for folder in (path, scratch_path(path)):
        shutil.rmtree(folder, ignore_errors=True)


def _check_output(final: Path, inputs: Sequence[Path], *, overwrite: bool, file: bool, mark: Mark | None) -> None:
    for source in inputs:
        if final.resolve() in (source.resolve(), *source.resolve().parents):
            raise OutputError(
                f"{final}: contains the input {source}, so it cannot be replaced", hint="choose another output path"
            )
    _check_free(final, overwrite=overwrite, file=file, mark=mark)
    if not file and os.path.isfile(final):
        raise OutputError(
            f"{final}: this is a file, but the output is a folder",
            hint="choose another output path, or delete the file",
        )
    if file and os.path.isdir(final):
        raise OutputError(f"{final}: this is a folder", hint=f"give a file name: {command('-o', final / 'model.gguf')}")


def _check_free(final: Path, *, overwrite: bool, file: bool, mark: Mark | None) -> None:
    if file:
        check_free(final, overwrite=overwrite)
    else:
        check_free_folder(final, mark, overwrite=overwrite)


def replace_all(pairs: Sequence[tuple[Path, Path]], renamed: Callable[[], None] = lambda: None) -> None:
    """Rename each first path to its second, all or none. Callers have checked that the second may be replaced.

    A rename cannot replace a folder that is not empty. So an old output changes places with the new one or, where the
    system cannot do that, is first moved aside.

    Args:
        pairs: what to rename, and its new name.
        renamed: called before old outputs are removed; flushes the new names, so that a power cut leaves one or the
            other.
    """
    undo: list[Callable[[], object]] = []
    old: list[Path] = []
    for temporary, final in pairs:
        try:
            if not os.path.lexists(final):
                _rename(temporary, final, undo)
            elif exchange(temporary, final):
                undo.append(partial(exchange, final, temporary))
                old.append(temporary)
            else:
                _rename(final, aside_path(final), undo)
                _rename(temporary, final, undo)
                old.append(aside_path(final))
        except OSError as error:
            for step in reversed(undo):
                step()
            raise write_error(final, error) from None
    renamed()
    for path in old:
        remove(path)


def _rename(path: Path, to: Path, undo: list[Callable[[], object]]) -> None:
    os.rename(path, to)
    undo.append(lambda: os.rename(to, path))
