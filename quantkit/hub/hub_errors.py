"""What goes wrong with Hugging Face's hub, as errors that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP library

from quantkit.errors import HubError
from quantkit.hub.blobs import DamagedError
from quantkit.hub.outgoing import harmless_line
from quantkit.hub.patience import EnoughError, duration
from quantkit.hub.remote_file import RemoteFile
from quantkit.hub.source import HubId
from quantkit.hub.transfer import RefusedError
from quantkit.system.shell import command

LOGIN = "hf auth login"
_AGAIN = "run the command again: what has arrived is kept"
_PROXY = "set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT, or NO_PROXY to the hub's host"


@contextmanager
def explained(source: HubId, file: RemoteFile | None = None) -> Iterator[None]:
    """Turn any error of the client into a HubError. ValueError: a file too large for the client's plain HTTP; the last
    four: it takes what the hub answers for what it should be."""
    try:
        yield
    except (EnoughError, DamagedError) as error:
        raise _of_file(source, file, error) from None
    except RefusedError as error:
        raise _status(source, error.status) from None
    except (TransportError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise explain(source, error) from None


def explain(source: HubId, error: Exception) -> HubError:
    """The error of the client, for people."""
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
        return _status(source, error.response.status_code)
    if isinstance(error, TransportError | LocalEntryNotFoundError | ConnectionError | TimeoutError):
        return HubError(
            f"{source}: the connection to {constants.ENDPOINT} failed ({harmless_line(error.__cause__ or error)})",
            hint=_PROXY if needs_proxy_password(error) else _AGAIN,
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(f"{source}: the disk of {constants.HF_HUB_CACHE} is full", hint=disk_hint())
    if isinstance(error, TypeError | KeyError | AttributeError | RecursionError):
        return HubError(
            f"{source}: {constants.ENDPOINT} answers with something that is not the hub's ({harmless_line(error)})",
            hint="check HF_ENDPOINT, and update huggingface_hub",
        )
    return HubError(f"{source}: cannot be downloaded ({harmless_line(error)})", hint="run the command again")


def _status(source: HubId, status: int) -> HubError:
    hints = {
        401: LOGIN,
        403: f"run {LOGIN} with a token that may read {source.repo}",
        407: _PROXY,
        429: f"wait a few minutes, or run {LOGIN}",
    }
    return HubError(f"{source}: the hub answered with HTTP status {status}", hint=hints.get(status, "try again later"))


def _of_file(source: HubId, file: RemoteFile | None, error: EnoughError | DamagedError) -> HubError:
    name = "" if file is None else f"{file.name}: "
    if isinstance(error, DamagedError):
        return HubError(
            f"{source}: {name.removesuffix(': ')} was damaged in the download (its hash differs from the hub's)",
            hint="run the command again to download the file again",
        )
    when = "" if error.asked is None else f" in {duration(error.asked)}, or after {LOGIN}"
    kept = "" if file is None else ": what has arrived is kept"
    return HubError(f"{source}: {name}{error}", hint=f"run the command again{when}{kept}")


def unreachable(why: Exception) -> str:
    """Why the hub gives no answer, in a few words."""
    if isinstance(why, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    return f"{constants.ENDPOINT} cannot be reached ({harmless_line(why)})"


def not_cached(source: HubId, why: Exception) -> HubError:
    """The hub cannot be reached, and the cache does not have it."""
    if isinstance(why, OfflineModeIsEnabled):
        way_out = "unset HF_HUB_OFFLINE"
    else:
        way_out = _PROXY if needs_proxy_password(why) else "check the network, or set HF_ENDPOINT to a mirror"
    revision = ("--revision", source.revision) if source.revision else ()
    by_hand = command("hf", "download", source.repo, *revision, "--local-dir", source.name)
    return HubError(
        f"{source}: no such folder, and not (completely) in the download cache; {unreachable(why)}",
        hint=f"{way_out}; or download it on a machine with a network ({by_hand}) and give its folder",
    )


def needs_proxy_password(error: Exception) -> bool:
    """Whether a proxy in between asks who it is."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 407
    return "407" in str(error) and "ProxyError" in {kind.__name__ for kind in type(error).__mro__}


def disk_hint() -> str:
    """What to do if the disk of the cache is full."""
    return "free some space (hf cache ls lists the cache), or set HF_HOME to a folder on another disk"
