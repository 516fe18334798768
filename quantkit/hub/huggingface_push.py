"""Uploads to Hugging Face, through huggingface_hub.

Large files are uploaded one after the other and then committed together, so that a branch never has half a package.
What the hub has of them is not sent again: whole files by git LFS, chunks of files by Xet. The client repeats a request
that was cut or that the hub had no time for; after that, the command is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP library
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from quantkit.errors import HubError, VerificationError
from quantkit.hub.hub_client import quiet
from quantkit.hub.hub_errors import LOGIN
from quantkit.hub.huggingface import listing
from quantkit.hub.outgoing import OutgoingFile, Pushed, harmless_line
from quantkit.hub.remote_file import RemoteFile
from quantkit.hub.source import HubId
from quantkit.hub.target import PushTarget
from quantkit.system.progress import Reporter
from quantkit.system.units import size

# Where the client says that it will repeat a request, and how these lines begin.
_CLIENT_HTTP = "huggingface_hub.utils._http"
_REPEATS = ("Retrying in", "Rate limited")
# What the hub keeps apart from small files, whatever its size.
_LARGE = ".gguf"
_AGAIN = "run the command again: what the hub has is not sent again"


def check_account(target: PushTarget) -> str:
    """The account that would push, by the token of ``HF_TOKEN`` or of the client's login.

    Raises:
        HubError: there is no token, it is not accepted or may only read, or the hub cannot be reached.
    """
    if not get_token():
        raise HubError(
            f"{target}: no token for {constants.ENDPOINT}",
            hint=f"run {LOGIN}, or set HF_TOKEN to a token that may write",
        )
    with quiet(), explained(target):
        found = HfApi().whoami()
        token = (found.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise HubError(
                f"{target}: the token of {found['name']} may only read",
                hint=f"make one that may write at {constants.ENDPOINT}/settings/tokens, then run {LOGIN}",
            )
        return str(found["name"])


def upload(
    target: PushTarget,
    files: Sequence[OutgoingFile],
    *,
    public: bool,
    branch: str | None,
    message: str,
    reporter: Reporter,
) -> Pushed:
    """Upload files as one commit to a repository, which is made if it does not exist, and compare what arrived.

    Args:
        target: the repository.
        files: what to upload; other files of the repository stay.
        public: make it public; one that is public already is only pushed to with this.
        branch: the branch, made if it does not exist; None for the default one.
        message: of the commit.
        reporter: gets notes, and says whether bars may be drawn.

    Raises:
        HubError: it cannot be uploaded; the message says why, and what to do.
        VerificationError: what arrived is not what was sent.
    """
    api, where = HfApi(), HubId(target.name, branch or "")
    with quiet(), explained(target), _repeats(target, reporter), _bars(reporter.draws):
        private = _repository(api, target, public=public, reporter=reporter)
        if branch is not None and not branch.startswith("refs/"):  # a pull request exists, or nobody can make it
            api.create_branch(target.name, branch=branch, exist_ok=True)
        before = listing(where)[1]
        new = []
        for file in files:
            if _same(file, before.get(file.name)):
                reporter.note(f"{file.name}: {size(file.nbytes)}, the hub has it")
                continue
            new.append(_addition(file))
            if file.name.endswith(_LARGE):  # small files only travel with the commit
                api.preupload_lfs_files(target.name, new[-1:], revision=branch, free_memory=False)
                reporter.note(f"{file.name}: {size(file.nbytes)}, arrived")
        if new:
            commit = api.create_commit(target.name, new, commit_message=message, revision=branch).oid
        else:
            reporter.note(f"{target}: nothing to upload, the repository has these files")
        there_commit, there = listing(HubId(target.name, commit if new else branch or ""))
    _compare(target, files, there)
    return Pushed(f"{constants.ENDPOINT}/{target.name}", there_commit, private)


def _repository(api: HfApi, target: PushTarget, *, public: bool, reporter: Reporter) -> bool:
    """Make the repository if it does not exist; returns whether it is private."""
    try:
        found = api.model_info(target.name, timeout=constants.DEFAULT_REQUEST_TIMEOUT)
    except RepositoryNotFoundError:
        api.create_repo(target.name, private=not public, exist_ok=True)
        reporter.note(f"{target}: made a {'public' if public else 'private'} repository")
        return not public
    if not found.private and not public:
        raise HubError(
            f"{target}: the repository exists and is public, and everybody would see what is pushed",
            hint="add --public if that is meant, or choose another name",
        )
    if found.private and public:
        reporter.note(
            f"{target}: the repository exists and stays private; its settings make it public: "
            f"{constants.ENDPOINT}/{target.name}/settings"
        )
    return bool(found.private)


def _addition(file: OutgoingFile) -> CommitOperationAdd:
    """The client's value for a file, with the hash that is known already."""
    made = CommitOperationAdd(file.name, file.content)
    made.upload_info.sha256 = bytes.fromhex(file.sha256)
    return made


def _same(file: OutgoingFile, there: RemoteFile | None) -> bool:
    if there is None or there.nbytes != file.nbytes:
        return False
    return there.digest == (file.sha256 if len(there.digest) == 64 else file.git_hash())


def _compare(target: PushTarget, files: Sequence[OutgoingFile], there: dict[str, RemoteFile]) -> None:
    """Compare sizes and hashes with the hub's listing.

    Raises:
        VerificationError: a file is missing or another one.
    """
    if wrong := [file.name for file in files if not _same(file, there.get(file.name))]:
        missing = wrong[0] not in there
        raise VerificationError(
            f"{target}: uploaded, but {'the hub does not list' if missing else 'the hub has other bytes of'} {wrong[0]}"
            + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
            hint="run the command again; do not use what the hub has until it succeeds",
        )


@contextmanager
def explained(target: PushTarget) -> Iterator[None]:
    """Turn any error of the client into a HubError. RuntimeError wraps what ended an upload; its cause is the error."""
    try:
        yield
    except (TransportError, OSError, ValueError, RuntimeError) as error:
        raise _explain(target, error) from None


def _explain(target: PushTarget, error: BaseException) -> HubError:
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return _answered(target, error)
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"{target}: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE")
    if isinstance(error, TransportError | ConnectionError | TimeoutError):
        return HubError(
            f"{target}: the connection to {constants.ENDPOINT} failed ({harmless_line(error)})",
            hint=f"check the network and HF_ENDPOINT; {_AGAIN}",
        )
    if isinstance(error, HFValidationError):
        return HubError(f"{target}: {harmless_line(error)}", hint="choose another name")
    return HubError(f"{target}: cannot be uploaded ({harmless_line(error)})", hint=_AGAIN)


def _answered(target: PushTarget, error: HfHubHTTPError) -> HubError:
    """What a status means. The hub's own words come along; they are the reason."""
    status = error.response.status_code
    said = (error.server_message or "").strip()
    words = f" ({harmless_line(ValueError(said))})" if said else ""
    organization = target.name.partition("/")[0]
    if status == 401:
        return HubError(f"{target}: the hub does not accept the token{words}", hint=f"run {LOGIN} with a valid token")
    if status == 403:
        return HubError(
            f"{target}: the token may not write there{words}",
            hint=f"run {LOGIN} with a token that may write to repositories of {organization}",
        )
    if status == 404:
        return HubError(
            f"{target}: there is no such place, or the token may not see it{words}",
            hint=f"check that {organization} is your account, or an organization that you may write to",
        )
    if status == 429:
        after = error.response.headers.get("Retry-After", "")
        wait = f"wait {after} s" if after.isdigit() else "wait a few minutes"
        return HubError(f"{target}: too many requests{words}", hint=f"{wait}, then {_AGAIN}")
    if status >= 500:
        return HubError(f"{target}: the hub answered with HTTP status {status}{words}", hint=f"wait, then {_AGAIN}")
    return HubError(f"{target}: the hub refuses it with HTTP status {status}{words}", hint="correct what it says")


@contextmanager
def _bars(drawn: bool) -> Iterator[None]:
    """The client's own bars, with bytes and speed, where bars are drawn at all."""
    before = are_progress_bars_disabled()
    if not drawn:
        disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


@contextmanager
def _repeats(target: PushTarget, reporter: Reporter) -> Iterator[None]:
    """Note when the client repeats a request. Its other lines hold addresses with signatures, which no log may have."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (line := record.getMessage()).startswith(_REPEATS):
                reporter.note(f"{target}: {line.rstrip('.')}")

    logger, handler = logging.getLogger(_CLIENT_HTTP), Handler()
    before = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
