"""Reference logits that are kept for the next evaluation, in the user's cache folder.

A file is named by everything that determines it. It is written in a folder of its own and gets its name when it is
complete; whoever reads it holds a second name of it, so it may be removed meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from quantkit.ggml.library import library_sizes
from quantkit.gguf.fingerprint import fingerprint
from quantkit.gguf.model import GGUFModel
from quantkit.kernels.cache import cache_folder
from quantkit.system.running import is_running
from quantkit.system.temporary import temporary_folder

LIMIT = 4 << 30
"""Bytes that all files together may have; the ones that were not used for longest are removed first."""

_FORMAT = 2  # one more when the logits of the same model and text are computed or written in another way
_SUFFIX = ".logits"
_WORK = re.compile(r"\.work-(\d+)-.*")
_open: set[str] = set()  # the folders of this process


@dataclass(frozen=True)
class Work:
    """A temporary folder beside the kept files.

    Attributes:
        path: the folder.
        home: the folder of the kept files; None if it cannot be written.
    """

    path: Path
    home: Path | None

    def find(self, key: str) -> Path | None:
        """A kept file, under a name of its own in this folder; None if there is none."""
        if self.home is None:
            return None
        kept, own = self.home / f"{key}{_SUFFIX}", self.path / f"kept{_SUFFIX}"
        try:
            os.utime(kept)
            own.unlink(missing_ok=True)
            os.link(kept, own)
        except FileNotFoundError:
            return None
        except OSError:  # no second names here
            return kept
        return own

    def drop(self, key: str) -> None:
        """Remove a kept file that is damaged."""
        if self.home is not None:
            with suppress(OSError):
                (self.home / f"{key}{_SUFFIX}").unlink()

    def keep(self, key: str, file: Path) -> bool:
        """Give a complete file of this folder its name among those kept, and remove old ones.

        Returns:
            Whether it is kept: not if it is larger than the limit.
        """
        if self.home is None or file.stat().st_size > LIMIT:
            return False
        kept = self.home / f"{key}{_SUFFIX}"
        with suppress(OSError):
            try:
                os.link(file, kept)
            except FileExistsError:  # another evaluation was faster
                return True
            except OSError:
                shutil.copyfile(file, self.path / "copy")
                os.replace(self.path / "copy", kept)
            remove_old(self.home, keep=kept)
            return True
        return False


@contextmanager
def open_work(home: Path | None = None) -> Iterator[Work]:
    """A folder for the files of one evaluation, removed at the end.

    Args:
        home: the folder of the kept files, None for that in the user's cache.

    Raises:
        OutputError: no folder for temporary files can be made.
    """
    home = home or cache_folder("logits")
    place: Path | None = home
    folder: AbstractContextManager[str | Path]
    try:
        home.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(home)
        folder = tempfile.TemporaryDirectory(prefix=f".work-{os.getpid()}-", dir=home)
    except OSError:
        place, folder = None, temporary_folder()
    with folder as name:
        path = Path(name)
        _open.add(path.name)
        try:
            yield Work(path, place)
        finally:
            _open.discard(path.name)


def remove_old(home: Path, *, keep: Path, limit: int = LIMIT) -> None:
    """Remove the files that were not used for longest, until all others have at most *limit* bytes."""
    found = []
    for path in home.glob(f"*{_SUFFIX}"):
        with suppress(OSError):
            state = path.stat()
            found.append((path != keep, -state.st_mtime, path, state.st_size))
    total = 0
    for _, _, path, size in sorted(found):
        total += size
        if total > limit and path != keep:
            with suppress(OSError):
                path.unlink()


def key_of(model: GGUFModel, tokens: str, context: int, chunks: int, n_gpu_layers: int, kind: str = "") -> str:
    """The name of a reference's logits: what determines them, and no path.

    Args:
        model: the reference.
        tokens: sha256 of the token ids.
        context, chunks: how the tokens are cut.
        n_gpu_layers: a GPU computes other last digits.
        kind: of the nodes that compute, "" for this machine.
    """
    facts = {
        "format": _FORMAT,
        "model": fingerprint(model),
        "parts": [(state.st_size, state.st_mtime_ns) for state in (path.stat() for path in model.files)],
        "tokens": tokens,
        "context": context,
        "chunks": chunks,
        "n_gpu_layers": n_gpu_layers,
        "llama.cpp": [version("llama_cpp_python"), *library_sizes()],
        **({"kind": kind} if kind else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def _remove_abandoned(home: Path) -> None:
    for entry in home.iterdir():
        match = _WORK.fullmatch(entry.name)
        if match and entry.name not in _open and not is_running(int(match[1])):
            shutil.rmtree(entry, ignore_errors=True)
