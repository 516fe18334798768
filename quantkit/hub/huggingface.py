"""Hugging Face repositories, through huggingface_hub.

Its HTTP download only checks the size of a file, so new files are checked here against the sha256 (or the git hash, for
small files) that the hub lists. Small files come before weights: if a download is interrupted, no folder looks complete
with half a tokenizer. The branch's name is entered into the cache last, so offline runs find only complete snapshots.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP library
from huggingface_hub.utils import logging as client_log
from huggingface_hub.utils.tqdm import tqdm as client_tqdm

from quantkit.errors import HubError
from quantkit.hub.files import Kind, patterns, small_files, weight_files
from quantkit.hub.source import HubId
from quantkit.system.progress import Reporter
from quantkit.system.shell import command
from quantkit.system.units import size

Advance = Callable[[int], None]
LOGIN = "hf auth login"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size in bytes, and its sha256 (64 digits) or the git hash of its blob (40)."""

    name: str
    nbytes: int
    digest: str


def download(source: HubId, kind: Kind, reporter: Reporter) -> Path:
    """The snapshot's folder in the cache, with all files that are needed.

    Raises:
        HubError: it cannot be downloaded; the message says why.
    """
    with quiet(), _explained(source):
        try:
            commit, files = listing(source)
        except (TransportError, OfflineModeIsEnabled) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            return _from_cache(source, kind, error, reporter)
        small = small_files(source, files, kind)
        weights = weight_files(source, files, kind, lambda name: _get(source, commit, files[name], lambda n: None))
        names = [*small, *weights]
        _get_missing(source, commit, [files[name] for name in names], reporter)
        # Everything is there: this enters the branch's name into the cache and returns the snapshot's path.
        folder = Path(
            snapshot_download(
                source.repo,
                revision=source.revision or None,
                allow_patterns=[glob.escape(name) for name in names],
                tqdm_class=_Silent,
            )
        )
    if folder.name != commit:
        raise HubError(f"{source}: the repository changed during the download", hint="run the command again")
    return folder


def download_file(source: HubId, choose: Callable[[Collection[str]], str], reporter: Reporter) -> Path:
    """One file of a repository, in the cache.

    Args:
        source: the repository.
        choose: the name of the file, among those that are there.
        reporter: gets a note before the download, and its progress.

    Raises:
        HubError: it cannot be downloaded; the message says why. Or what *choose* raises.
    """
    revision = source.revision or None
    with quiet(), _explained(source):
        try:
            commit, files = listing(source)
        except (TransportError, OfflineModeIsEnabled) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            reason = _unreachable(error)
            try:
                folder = Path(snapshot_download(source.repo, revision=revision, local_files_only=True))
            except LocalEntryNotFoundError:
                raise _not_cached(source, error) from None
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            reporter.note(f"{source}: {reason}; using commit {folder.name[:12]} from the cache")
            return folder / choose(names)
        name = choose(files)
        _get_missing(source, commit, [files[name]], reporter)
        # This enters the branch's name into the cache.
        return Path(hf_hub_download(source.repo, name, revision=revision, tqdm_class=_Silent))


def listing(source: HubId) -> tuple[str, dict[str, RemoteFile]]:
    """The current commit of the revision, and its files by name."""
    info = HfApi().model_info(
        source.repo,
        revision=source.revision or None,
        files_metadata=True,
        timeout=constants.DEFAULT_REQUEST_TIMEOUT,
    )
    if info.sha is None:
        raise HubError(f"{source}: the hub's answer has no commit", hint="check HF_ENDPOINT")
    files = {
        file.rfilename: RemoteFile(
            file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs is not None else file.blob_id or ""
        )
        for file in info.siblings or ()
    }
    return info.sha, files


def _get_missing(source: HubId, commit: str, files: Sequence[RemoteFile], reporter: Reporter) -> None:
    missing = [file for file in files if _will_download(source, commit, file.name)]
    if not missing:
        return
    total = sum(file.nbytes for file in missing)
    _check_space(source, total)
    reporter.note(f"downloading {source}: {len(missing)} files, {size(total)}")
    with reporter.phase(f"downloading {source.name}", total, "bytes") as advance:
        for file in missing:
            _get(source, commit, file, advance)


def _will_download(source: HubId, commit: str, name: str) -> bool:
    return hf_hub_download(source.repo, name, revision=commit, dry_run=True).will_download


def _get(source: HubId, commit: str, file: RemoteFile, advance: Advance) -> Path:
    """The path of a file in the cache, after checking its hash."""
    progress = _FileProgress(file.nbytes, advance)
    path = Path(hf_hub_download(source.repo, file.name, revision=commit, tqdm_class=progress.bar_class()))
    if not _is_intact(path, file):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(
            f"{source}: {file.name} was damaged in the download (its hash differs from the hub's)",
            hint="run the command again to download the file again",
        )
    progress.reach(file.nbytes)
    return path


def _is_intact(path: Path, file: RemoteFile) -> bool:
    with path.open("rb") as content:
        if len(file.digest) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.digest
        blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while block := content.read(1 << 20):
            blob.update(block)
        return blob.hexdigest() == file.digest


def _check_space(source: HubId, nbytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < nbytes:
        raise HubError(
            f"{source}: the download needs {size(nbytes)}, but the disk of {cache} has {size(free)} free",
            hint=_disk_hint(),
        )


def _disk_hint() -> str:
    return "free some space (hf cache ls lists the cache), or set HF_HOME to a folder on another disk"


def _from_cache(source: HubId, kind: Kind, why: Exception, reporter: Reporter) -> Path:
    """The last snapshot in the cache, if the hub cannot be reached."""
    try:
        folder = Path(
            snapshot_download(
                source.repo, revision=source.revision or None, local_files_only=True, allow_patterns=patterns(kind)
            )
        )
    except LocalEntryNotFoundError:
        raise _not_cached(source, why) from None
    reporter.note(f"{source}: {_unreachable(why)}; using commit {folder.name[:12]} from the cache")
    return folder


def _unreachable(why: Exception) -> str:
    if isinstance(why, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    return f"{constants.ENDPOINT} cannot be reached ({_first_line(why)})"


def _not_cached(source: HubId, why: Exception) -> HubError:
    offline = isinstance(why, OfflineModeIsEnabled)
    way_out = "unset HF_HUB_OFFLINE" if offline else "check the network, or set HF_ENDPOINT to a mirror"
    return HubError(
        f"{source}: no such folder, and not (completely) in the download cache; {_unreachable(why)}",
        hint=f"{way_out}; or download it on a machine with a network ({_by_hand(source)}) and give its folder",
    )


def _by_hand(source: HubId) -> str:
    revision = ("--revision", source.revision) if source.revision else ()
    return command("hf", "download", source.repo, *revision, "--local-dir", source.name)


@contextmanager
def _explained(source: HubId) -> Iterator[None]:
    """Turn any error of the client into a HubError. ValueError: a file too large for the client's plain HTTP."""
    try:
        yield
    except (TransportError, OSError, ValueError) as error:
        raise _explain(source, error) from None


def _explain(source: HubId, error: Exception) -> HubError:
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__  # the client also looked in the cache; its cause is the real error
    page = f"{constants.ENDPOINT}/{source.repo}"
    repo = source.repo
    if isinstance(error, GatedRepoError):
        return HubError(
            f"{source}: the model is gated, and your account has no access",
            hint=f"accept its terms at {page}, then run {LOGIN}",
        )
    if isinstance(error, RevisionNotFoundError):
        return HubError(
            f"{source}: {repo} has no revision {source.revision!r}",
            hint=f"choose a branch or tag from {page}/tree/main, or give {repo} without a revision",
        )
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"{source}: no such folder, and no such model on the hub (or it is private)",
            hint=f"correct the path or the id; for a private model, run {LOGIN}",
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        hints = {
            401: LOGIN,
            403: f"run {LOGIN} with a token that may read {repo}",
            429: f"wait a few minutes, or run {LOGIN}",
        }
        return HubError(
            f"{source}: the hub answered with HTTP status {status}", hint=hints.get(status, "try again later")
        )
    if isinstance(error, TransportError | LocalEntryNotFoundError | ConnectionError | TimeoutError):
        return HubError(
            f"{source}: the connection to {constants.ENDPOINT} failed ({_first_line(error.__cause__ or error)})",
            hint="run the command again: finished files are kept",
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return HubError(f"{source}: the disk of {constants.HF_HUB_CACHE} is full", hint=_disk_hint())
    return HubError(f"{source}: cannot be downloaded ({_first_line(error)})", hint="run the command again")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off the client's own warnings: anything important is raised as an error."""
    before = client_log.get_verbosity()
    client_log.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        client_log.set_verbosity(before)


class _Silent(client_tqdm):
    """A progress bar that is not drawn."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]


class _FileProgress:
    """Progress of one file in bytes. A client may have several bars for it (received, written): the highest counts."""

    def __init__(self, nbytes: int, advance: Advance) -> None:
        self._nbytes, self._advance, self._reached = nbytes, advance, 0

    def reach(self, amount: int) -> None:
        """Report that at least *amount* bytes are done."""
        new = min(amount, self._nbytes) - self._reached
        if new > 0:
            self._reached += new
            self._advance(new)

    def bar_class(self) -> type[_Silent]:
        """A class of progress bars for the client, which report to this object."""
        reach = self.reach

        class Bar(_Silent):
            def update(self, n: float | None = 1) -> None:
                self.n += int(n or 0)
                reach(self.n)

        return Bar
