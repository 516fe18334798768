"""One file of a Hugging Face repository, into the client's cache: by plain HTTP, or by Xet where the hub has it there.

Xet, the hub's storage in chunks, is fetched by the client, over several connections at a time; that begins a file again
if it breaks off. If Xet does not work here, or part of the file has come over HTTP already, it is plain HTTP.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfFileMetadata, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP library
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # not listed there

from quantkit.errors import HubError
from quantkit.hub.blobs import DamagedError, blobs_folder, bring, bytes_here, part_path
from quantkit.hub.hub_client import bar_class, bounded_waits
from quantkit.hub.hub_errors import explained
from quantkit.hub.outgoing import harmless_line
from quantkit.hub.patience import Patience, Tries, Trouble
from quantkit.hub.remote_file import FileProgress, RemoteFile, is_intact
from quantkit.hub.source import HubId
from quantkit.hub.transfer import Place, begun, passing

_T = TypeVar("_T")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# A mirror may send its clients on to the hub itself, which a token is for, too.
_HUB = "https://huggingface.co"


def get_file(
    source: HubId,
    commit: str,
    file: RemoteFile,
    *,
    advance: Callable[[int], None],
    note: Callable[[str], None],
    patience: Patience,
) -> Path:
    """The path of a file in the cache, after checking its hash.

    Args:
        source: the repository.
        commit: of the file.
        file: what the hub lists.
        advance: told how many more bytes are there.
        note: told why it waits, and what is done otherwise.
        patience: the bounds.

    Raises:
        HubError: it cannot be downloaded; the message says why.
    """
    progress = FileProgress(file.nbytes, advance)
    with explained(source, file):
        if not file.has_digest:
            raise HubError(f"{source}: the hub does not say what {file.name} contains", hint="check HF_ENDPOINT")
        folder, url = blobs_folder(source.repo), hf_hub_url(source.repo, file.name, revision=commit)

        def told(text: str) -> None:
            note(f"{file.name}: {text}")

        def metadata() -> HfFileMetadata:
            found = begun(lambda: get_hf_file_metadata(url, timeout=patience.silence), patience)
            if found.etag != file.digest:
                raise HubError(
                    f"{source}: the hub lists one content of {file.name}, and has another one there",
                    hint="run the command again; if that does not help, check HF_ENDPOINT",
                )
            return found

        def over_http() -> None:
            bring(file, folder, lambda: _place(url, metadata()), reach=progress.reach, note=told, patience=patience)

        path: Path | None = None
        if is_here(source, commit, file):
            path = _snapshot(source, commit, file)
        elif not (folder / file.digest).exists():
            known = persist(metadata, patience, told)
            if known.xet_file_data is None or not _has_xet() or part_path(folder, file).exists():
                over_http()
            else:
                path = _by_xet(source, commit, file, progress, told)
                if path is None:
                    over_http()
        if path is None:
            with bounded_waits():
                path = Path(hf_hub_download(source.repo, file.name, revision=commit))
            if not path.is_symlink():  # where there are no links the client has made a copy
                (folder / file.digest).unlink(missing_ok=True)
        progress.reach(file.nbytes)
        return path


def is_here(source: HubId, commit: str, file: RemoteFile) -> bool:
    """Whether the cache has all of a file at this commit."""
    return _snapshot(source, commit, file).is_file()


def _snapshot(source: HubId, commit: str, file: RemoteFile) -> Path:
    return blobs_folder(source.repo).parent / "snapshots" / commit / file.name


def still_missing(source: HubId, file: RemoteFile) -> int:
    """How many bytes of a file are still to be received."""
    return file.nbytes - bytes_here(blobs_folder(source.repo), file)


def persist(call: Callable[[], _T], patience: Patience, note: Callable[[str], None]) -> _T:
    """The value of a call to the hub, made again while what goes wrong may pass.

    Raises:
        EnoughError: it has failed too often.
        TransportError: what does not pass.
    """
    tries = Tries(patience, note)
    while True:
        try:
            return call()
        except (TransportError, Trouble) as error:
            trouble = passing(error, patience)
            if not isinstance(trouble, Trouble):
                raise
            tries.failed(trouble)


def _has_xet() -> bool:
    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def _by_xet(
    source: HubId, commit: str, file: RemoteFile, progress: FileProgress, note: Callable[[str], None]
) -> Path | None:
    """Let the client fetch a file; None if its transfer does not work here.

    Raises:
        DamagedError: what came in is something else.
        OSError: the disk is full.
    """
    try:
        with bounded_waits():
            path = Path(hf_hub_download(source.repo, file.name, revision=commit, tqdm_class=bar_class(progress)))
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        note(f"cannot be fetched by Xet ({harmless_line(error)}); fetched over plain HTTP")
        return None
    if not is_intact(path, file):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise DamagedError
    return path


def _place(url: str, metadata: HfFileMetadata) -> Place:
    """Where the content is. The token goes to the hub, and to nobody whom the hub names."""
    headers = dict(build_hf_headers())
    if _origin(metadata.location) not in {_origin(url), _origin(constants.ENDPOINT), _origin(_HUB)}:
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    return Place(metadata.location, headers)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port
