"""The folder or file that is being written: temporary, next to its final path, and renamed when it is complete.

A temporary name contains the process id, so the files of a killed run are removed by the next run for the same output,
and never by another one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.output_file import write_error
from quantkit.files.replaceable import Mark, check_free, check_free_folder
from quantkit.system.running import is_running
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
    """

    path: Path
    final: Path
    overwrite: bool
    fsync: bool = False
    inputs: tuple[Path, ...] = ()
    file: bool = False
    mark: Mark | None = None

    @property
    def place(self) -> Path:
        """The folder that will contain the files."""
        return self.final.parent if self.file else self.final

    def scratch(self) -> Path:
        """A folder for intermediate files, created on the first call and removed with the workspace."""
        path = self.path.with_name(f"{self.path.name}-scratch")
        path.mkdir(exist_ok=True)
        return path

    def reserve(self, names: Sequence[str]) -> None:
        """Check before the work that files with these names (parts of a split model) may be written next to the output.

        Raises:
            OutputError: a file exists and may not be replaced, or is an input or a folder.
        """
        for name in names:
            if name != self.final.name:
                _check_output(self.place / name, self.inputs, overwrite=self.overwrite, file=True, mark=None)
                clean_after_killed_runs(self.place / name)

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
        self._flush()
        check_free_folder(final, self.mark, overwrite=overwrite)
        replace_all([(self.path, final)], self._flush_name)
        return final

    def publish_files(self, names: Sequence[str]) -> Path:
        """Rename the files with these names in the folder to the output, all or none.

        Returns:
            The first of them.
        """
        self._flush()
        for name in names:
            check_free(self.place / name, overwrite=self.overwrite)
        replace_all([(self.path / name, self.place / name) for name in names], self._flush_name)
        return self.place / names[0]

    def _flush(self) -> None:
        if self.fsync:
            for path in (*self.path.rglob("*"), self.path):
                sync(path)

    def _flush_name(self) -> None:
        if self.fsync:
            sync(self.final.parent)


def sync(path: Path) -> None:
    """Flush a file to the disk or, if the system can, a folder."""
    if path.is_dir() and os.name != "posix":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def workspace(
    final: Path,
    *,
    overwrite: bool,
    inputs: Sequence[Path] = (),
    file: bool = False,
    fsync: bool = False,
    mark: Mark | None = None,
) -> Iterator[Workspace]:
    """A workspace for *final*; anything that is not published is removed at the end.

    Args:
        final: the output.
        overwrite: replace it if it exists.
        inputs: files and folders that are read, which the output must not replace.
        file: the output is a file. A file never replaces a folder with its name, nor a folder a file.
        fsync: flush the output to the disk before the rename, and the rename after it.
        mark: what an older output of this kind has; a folder without it is never replaced.

    Raises:
        OutputError: *final* exists and may not be replaced, or it cannot be written.
    """
    final = Path(os.path.abspath(final))
    _check_output(final, inputs, overwrite=overwrite, file=file, mark=mark)
    temporary = final.with_name(f".{final.name}.quantkit-{os.getpid()}")
    try:
        new = [folder for folder in final.parents if not folder.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
        for folder in new if fsync else ():  # a power cut must not take the folders around the output
            sync(folder.parent)
        clean_after_killed_runs(final)
        _check_free(final, overwrite=overwrite, file=file, mark=mark)  # an old output may have been restored
        _remove_temporary(temporary)
        temporary.mkdir()
    except OSError as error:
        raise write_error(final, error) from None
    try:
        yield Workspace(temporary, final, overwrite, fsync, tuple(inputs), file, mark)
    except OSError as error:
        # Code that reads inputs raises its own errors, so this is the output's disk.
        raise write_error(final, error) from None
    finally:
        _remove_temporary(temporary)


def _remove_temporary(path: Path) -> None:
    for folder in (path, path.with_name(f"{path.name}-scratch")):
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

    A rename cannot replace a folder that is not empty, so an old output is first moved away.

    Args:
        pairs: what to rename, and its new name.
        renamed: called before old outputs are removed; flushes the new names, so that a power cut leaves one or the
            other.
    """
    done: list[tuple[Path, Path]] = []
    asides: list[Path] = []

    def rename(path: Path, to: Path) -> None:
        os.rename(path, to)
        done.append((path, to))

    for temporary, final in pairs:
        try:
            if os.path.lexists(final):
                aside = final.with_name(f".{final.name}.quantkit-old-{os.getpid()}")
                rename(final, aside)
                asides.append(aside)
            rename(temporary, final)
        except OSError as error:
            for path, to in reversed(done):
                os.rename(to, path)
            raise write_error(final, error) from None
    renamed()
    for aside in asides:
        _remove(aside)


def clean_after_killed_runs(final: Path) -> None:
    """Remove what killed runs left of this output; restore an output that was moved away and has no successor."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.quantkit-(old-)?(\d+)(?:-scratch)?")
    for entry in list(final.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if match is None or is_running(int(match[2])):
            continue
        if match[1] and not os.path.lexists(final):
            os.rename(entry, final)
        else:
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
