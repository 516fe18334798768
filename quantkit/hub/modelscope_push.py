"""Uploads to ModelScope, through ``modelscope_hub``, the client in the package ``modelscope`` (an optional extra).

Each file is a commit of its own, the manifest last, so that a package that stands there whole was uploaded whole. A
large file that the hub has is not sent again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from quantkit.errors import HubError, VerificationError
from quantkit.hub.outgoing import OutgoingFile, Pushed, harmless_line
from quantkit.hub.target import PushTarget
from quantkit.system.progress import Reporter
from quantkit.system.shell import installation
from quantkit.system.units import size

_KIND = "model"
_BRANCH = "master"
_PRIVATE = 1  # the hub's number of a visibility
_LOGIN = "modelscope login"
_AGAIN = "run the command again: what the hub has is not sent again"


def check_account(target: PushTarget) -> str:
    """The account that would push, by the token of ``MODELSCOPE_API_TOKEN`` or of the client's login.

    Raises:
        HubError: the client is not installed, there is no token, it is not accepted, or the hub cannot be reached.
    """
    with _explained(target):
        return str(_client().whoami().username)


def upload(
    target: PushTarget,
    files: Sequence[OutgoingFile],
    *,
    public: bool,
    branch: str | None,
    license: str,
    message: str,
    reporter: Reporter,
) -> Pushed:
    """Upload files to a repository, which is made if it does not exist, and compare what arrived.

    Args:
        target: the repository.
        files: what to upload, the last of them last; other files of the repository stay.
        public: make it public; one that is public already is only pushed to with this.
        branch: the branch; None for the default one.
        license: the license's name, for a repository that is made; "" for one that is not known.
        message: of the commits.
        reporter: gets notes, and says whether bars may be drawn.

    Raises:
        HubError: it cannot be uploaded; the message says why, and what to do.
        VerificationError: what arrived is not what was sent.
    """
    revision = branch or _BRANCH
    with _explained(target):
        api = _client()
        private, made = _repository(api, target, public=public, license=license, reporter=reporter)
        there = {} if made else _listing(api, target, revision)
        for file in files:
            if _same(file, there.get(file.name)):
                reporter.note(f"{file.name}: {size(file.nbytes)}, the hub has it")
                continue
            api.upload_file(
                target.name,
                _KIND,
                file.content,
                file.name,
                commit_message=message,
                revision=revision,
                disable_tqdm=not reporter.draws,
            )
            reporter.note(f"{file.name}: {size(file.nbytes)}, arrived")
        there = _listing(api, target, revision)
    if wrong := [file.name for file in files if not _same(file, there.get(file.name))]:
        raise VerificationError(
            f"{target}: uploaded, but the hub lists other bytes of {', '.join(wrong[:3])}",
            hint="run the command again; do not use what the hub has until it succeeds",
        )
    return Pushed(f"{_endpoint()}/models/{target.name}", revision, private)


def _client() -> Any:
    from modelscope_hub.api import HubApi

    return HubApi()


def _endpoint() -> str:
    from modelscope_hub.config import get_default_config
    from modelscope_hub.constants import DEFAULT_ENDPOINT

    return str(get_default_config().endpoint or DEFAULT_ENDPOINT).rstrip("/")


def _repository(api: Any, target: PushTarget, *, public: bool, license: str, reporter: Reporter) -> tuple[bool, bool]:
    """Make the repository if it does not exist; returns whether it is private, and whether it was made."""
    from modelscope_hub.errors import NotExistError

    try:
        found = api.get_repo(target.name, _KIND)
    except NotExistError:
        # Without a license, the client writes that it is Apache's.
        api.create_repo(target.name, _KIND, visibility="public" if public else "private", license=license or "other")
        reporter.note(f"{target}: made a {'public' if public else 'private'} repository")
        return not public, True
    private = bool(found.private) or found.visibility == _PRIVATE
    if not private and not public:
        raise HubError(
            f"{target}: the repository exists and is public, and everybody would see what is pushed",
            hint="add --public if that is meant, or choose another name",
        )
    if private and public:
        reporter.note(f"{target}: the repository exists and stays private; its settings make it public")
    return private, False


def _listing(api: Any, target: PushTarget, revision: str) -> dict[str, tuple[int, str]]:
    """Size and sha256 of each file; "" where the hub does not list a hash."""
    found = api.list_repo_files(target.name, _KIND, revision=revision)
    return {file.path: (file.size, file.sha256 or "") for file in found if not file.is_dir}


def _same(file: OutgoingFile, there: tuple[int, str] | None) -> bool:
    return there is not None and there[0] == file.nbytes and there[1] in (file.sha256, "")


@contextmanager
def _explained(target: PushTarget) -> Iterator[None]:
    """Turn any error of the client into a HubError."""
    try:
        from modelscope_hub import errors
    except ImportError:
        raise HubError(f"{target}: needs the package modelscope", hint=installation("modelscope")) from None
    organization = target.name.partition("/")[0]
    try:
        yield
    except errors.AuthenticationError as error:
        raise HubError(
            f"{target}: no token, or one that the hub does not accept ({harmless_line(error)})",
            hint=f"run {_LOGIN}, or set MODELSCOPE_API_TOKEN",
        ) from None
    except errors.PermissionDeniedError as error:
        raise HubError(
            f"{target}: the token may not write there ({harmless_line(error)})",
            hint=f"use a token that may write to repositories of {organization}",
        ) from None
    except errors.RateLimitError as error:
        raise HubError(
            f"{target}: too many requests ({harmless_line(error)})", hint=f"wait a few minutes, then {_AGAIN}"
        ) from None
    except (errors.HubError, OSError, ValueError) as error:
        raise HubError(f"{target}: cannot be uploaded ({harmless_line(error)})", hint=_AGAIN) from None
