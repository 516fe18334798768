"""The folder or file being made: temporary beside its final place, renamed when it is whole.

A temporary name tells whose it is (the process), so that what a killed run left behind is removed by the next run for
the same output and never by anyone else.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.output_file import write_error


@dataclass(frozen=True)
class Workspace:
    """A temporary folder beside the output it will become.

    Attributes:
        path: the temporary folder.
        final: the output.
        overwrite: an existing output is replaced.
        fsync: flush to the disk before and after the rename.
    """

    path: Path
    final: Path
    overwrite: bool
    fsync: bool = False

    def publish(self, final: Path | None = None) -> Path:
        """The folder itself becomes the output (or *final*, for a build that failed its checks)."""
        final = final or self.final
        self._flush()
        replace_with(self.path, final, overwrite=self.overwrite or final != self.final)
        self._flush_name()
        return final

    def publish_file(self) -> Path:
        """The file of the output's name in the folder becomes the output."""
        self._flush()
        replace_with(self.path / self.final.name, self.final, overwrite=self.overwrite)
        self._flush_name()
        return self.final

    def _flush(self) -> None:
        if self.fsync:
            for path in (*self.path.rglob("*"), self.path):
                sync(path)

    def _flush_name(self) -> None:
        if self.fsync:
            sync(self.final.parent)


def sync(path: Path) -> None:
    """Flush a file or, where the system can, a folder."""
    if path.is_dir() and os.name != "posix":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def workspace(
    final: Path, *, overwrite: bool, inputs: Sequence[Path] = (), file: bool = False, fsync: bool = False
) -> Iterator[Workspace]:
    """A workspace for *final*; what is not published is removed at the end.

    Args:
        final: the output.
        overwrite: replace it if it exists.
        inputs: what the work reads, which the output must not replace.
        file: the output is a file, and a folder of its name is never replaced.
        fsync: flush all of it to the disk before it gets its name, and the name after.

    Raises:
        OutputError: *final* exists and may not be replaced, or it cannot be written.
    """
    final = Path(os.path.abspath(final))
    for source in inputs:
        if final.resolve() in (source.resolve(), *source.resolve().parents):
            raise OutputError(f"{final}: holds the input {source} and cannot be replaced", hint="choose another -o")
    check_free(final, overwrite=overwrite)
    if file and os.path.isdir(final):
        raise OutputError(f"{final}: is a folder", hint=f"give a file name: -o {final / 'model.gguf'}")
    temporary = final.with_name(f".{final.name}.quantkit-{os.getpid()}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _clean_after_killed_runs(final)
        check_free(final, overwrite=overwrite)  # an old output may have come back
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    except OSError as error:
        raise write_error(final, error) from None
    try:
        yield Workspace(temporary, final, overwrite, fsync)
    except OSError as error:
        # What reads inputs raises errors of its own: this is the output's disk.
        raise write_error(final, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(final: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it may be overwritten."""
    if not os.path.lexists(final):
        return
    if not overwrite:
        raise OutputError(f"{final}: exists already", hint="choose another -o, or pass --overwrite")
    if final.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise OutputError(f"{final}: holds the current folder and cannot be replaced", hint="choose another -o")


def replace_with(temporary: Path, final: Path, *, overwrite: bool) -> None:
    """Rename *temporary* to *final*. No rename replaces a full folder, so an old output moves aside first."""
    check_free(final, overwrite=overwrite)
    aside = final.with_name(f".{final.name}.quantkit-old-{os.getpid()}")
    had = os.path.lexists(final)
    try:
        if had:
            os.rename(final, aside)
        try:
            os.rename(temporary, final)
        except OSError:
            if had:
                os.rename(aside, final)
            raise
    except OSError as error:
        raise write_error(final, error) from None
    if had:
        _remove(aside)


def _clean_after_killed_runs(final: Path) -> None:
    """Remove what killed runs left of this output; an output that was moved aside and has no successor comes back."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.quantkit-(old-)?(\d+)")
    for entry in list(final.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if match is None or _alive(int(match[2])):
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


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # in a container every run may have the same number
    if os.name != "posix":
        return True  # there is no harmless way to ask
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
