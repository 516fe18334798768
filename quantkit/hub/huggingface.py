"""Hugging Face repositories, through huggingface_hub.

Files are checked against the sha256 (or the git hash, for small files) that the hub lists. Small files come before
weights: if a download is interrupted, no folder looks complete with half a tokenizer. The branch's name is entered into
the cache last, so offline runs find only complete snapshots.
"""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP library

from quantkit.errors import HubError
from quantkit.hub.files import Kind, patterns, require_inside, small_files, weight_files
from quantkit.hub.hub_client import Silent, bounded_waits, quiet
from quantkit.hub.hub_errors import disk_hint, explained, not_cached, unreachable
from quantkit.hub.hub_file import get_file, is_here, still_missing
from quantkit.hub.in_time import LateError, in_time
from quantkit.hub.patience import EnoughError, Patience, Tries, Trouble, duration
from quantkit.hub.remote_file import RemoteFile
from quantkit.hub.source import HubId
from quantkit.hub.transfer import passing
from quantkit.system.progress import Reporter
from quantkit.system.units import size

PATIENCE = Patience(silence=float(constants.HF_HUB_DOWNLOAD_TIMEOUT))
# The hub's answer about a repository: there may be a cache to do without it.
_TRIES_OF_A_LISTING = 3
_COMMIT = re.compile("[0-9a-f]{7,64}")


def download(source: HubId, kind: Kind, reporter: Reporter) -> Path:
    """The snapshot's folder in the cache, with all files that are needed.

    Raises:
        HubError: it cannot be downloaded; the message says why.
    """
    with quiet(), explained(source):
        try:
            commit, files = _patient_listing(source, reporter)
        except (TransportError, OfflineModeIsEnabled) as error:
            if _is_refusal(error):
                raise
            return _from_cache(source, patterns(kind), error, reporter)

        def get(name: str) -> Path:
            return get_file(source, commit, files[name], advance=lambda n: None, note=reporter.note, patience=PATIENCE)

        small = small_files(source, files, kind)
        weights = weight_files(source, files, kind, get)
        names = [*small, *weights]
        _get_missing(source, commit, [files[name] for name in names], reporter)
        # Everything is there: this enters the branch's name into the cache and returns the snapshot's path.
        allowed = [glob.escape(name) for name in names]
        with bounded_waits():
            folder = Path(
                snapshot_download(
                    source.repo, revision=source.revision or None, allow_patterns=allowed, tqdm_class=Silent
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
    with quiet(), explained(source):
        try:
            commit, files = _patient_listing(source, reporter)
        except (TransportError, OfflineModeIsEnabled) as error:
            if _is_refusal(error):
                raise
            folder = _from_cache(source, None, error, reporter)
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            return folder / choose(names)
        name = choose(files)
        _get_missing(source, commit, [files[name]], reporter)
        # This enters the branch's name into the cache.
        with bounded_waits():
            return Path(hf_hub_download(source.repo, name, revision=source.revision or None, tqdm_class=Silent))


def listing(source: HubId) -> tuple[str, dict[str, RemoteFile]]:
    """The current commit of the revision, and its files by name.

    Raises:
        HubError: there is no commit, or a name leads elsewhere.
        ValueError, TypeError, KeyError, AttributeError: the answer is not the hub's.
        TransportError: there is none, or it does not end.
    """

    def ask() -> Any:
        return HfApi().model_info(
            source.repo,
            revision=source.revision or None,
            files_metadata=True,
            timeout=constants.DEFAULT_REQUEST_TIMEOUT,
        )

    try:
        info = in_time(ask, PATIENCE.longest)
    except LateError:
        raise TransportError(f"its answer has not ended after {duration(PATIENCE.longest)}") from None
    if info.sha is None:
        raise HubError(f"{source}: the hub's answer has no commit", hint="check HF_ENDPOINT")
    if not _COMMIT.fullmatch(info.sha):
        raise ValueError(info.sha)
    return info.sha, {file.rfilename: _remote_file(source, file) for file in info.siblings or ()}


def _remote_file(source: HubId, listed: Any) -> RemoteFile:
    """A file as the hub lists it.

    Raises:
        HubError: its name leads elsewhere.
        ValueError, TypeError: it is none.
    """
    name, nbytes = listed.rfilename, listed.size or 0
    digest = listed.lfs.sha256 if listed.lfs is not None else listed.blob_id or ""
    if not isinstance(name, str) or not isinstance(digest, str) or type(nbytes) is not int or nbytes < 0:
        raise TypeError(f"{name!r:.200}")
    require_inside(source, name)
    file = RemoteFile(name, nbytes, digest)
    return file if file.has_digest else replace(file, digest="")


def _patient_listing(source: HubId, reporter: Reporter) -> tuple[str, dict[str, RemoteFile]]:
    """The listing, asked for again while the hub is busy.

    Raises:
        HubError: the answer is not the hub's.
        EnoughError: it stays busy.
        TransportError: the hub cannot be reached, or is in trouble.
    """
    tries = Tries(replace(PATIENCE, tries=_TRIES_OF_A_LISTING), lambda text: reporter.note(f"{source}: {text}"))
    while True:
        try:
            return listing(source)
        except HfHubHTTPError as error:
            trouble = passing(error, PATIENCE)
            if not isinstance(trouble, Trouble):
                raise
            try:
                tries.failed(trouble)
            except EnoughError:
                if error.response.status_code < 500:
                    raise
                raise error from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise HubError(
                f"{source}: {constants.ENDPOINT} answers with something that is not the hub's",
                hint=f"open {constants.ENDPOINT} in a browser: a network may want a login; or correct HF_ENDPOINT",
            ) from None


def _get_missing(source: HubId, commit: str, files: Sequence[RemoteFile], reporter: Reporter) -> None:
    missing = [file for file in files if not is_here(source, commit, file)]
    if not missing:
        return
    total = sum(file.nbytes for file in missing)
    _check_space(source, sum(still_missing(source, file) for file in missing))
    reporter.note(f"downloading {source}: {len(missing)} files, {size(total)}")
    with reporter.phase(f"downloading {source.name}", total, "bytes") as advance:
        for file in missing:
            get_file(source, commit, file, advance=advance, note=reporter.note, patience=PATIENCE)


def _check_space(source: HubId, nbytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < nbytes:
        raise HubError(
            f"{source}: the download needs {size(nbytes)}, but the disk of {cache} has {size(free)} free",
            hint=disk_hint(),
        )


def _is_refusal(error: Exception) -> bool:
    """Whether the hub has answered, and refuses."""
    return isinstance(error, HfHubHTTPError) and error.response.status_code < 500


def _from_cache(source: HubId, wanted: list[str] | None, why: Exception, reporter: Reporter) -> Path:
    """The last snapshot in the cache with the files that match these patterns (None: all), as the hub is not there."""
    try:
        folder = Path(
            snapshot_download(
                source.repo, revision=source.revision or None, local_files_only=True, allow_patterns=wanted
            )
        )
    except LocalEntryNotFoundError:
        raise not_cached(source, why) from None
    reporter.note(f"{source}: {unreachable(why)}; using commit {folder.name[:12]} from the cache")
    return folder
