"""What a Hugging Face hub does with uploads: accounts, repositories, git LFS in parts, commits; with faults on request.

Used by :mod:`tests.support.hub_server`. Xet is another protocol, which is off in the tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

if TYPE_CHECKING:
    from tests.support.hub_server import HubServer, Repo

Answer = tuple[int, Any, dict[str, str]]
PART = 256 << 10


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to: a user, who may write to repositories of *may_write*."""

    name: str
    may_write: tuple[str, ...]
    role: str = "write"


@dataclass
class Uploads:
    """What was uploaded, and what goes wrong.

    Attributes:
        root: folder for the files of repositories that are made.
        accounts: by token.
        stored: what git LFS has, by sha256.
        parts: parts of files that are being uploaded, by sha256 and number.
        received: bytes that came in for each file, by sha256, whether kept or not.
        cuts: numbers of bytes of LFS content in all; where one is reached the connection breaks, and the network is
            gone until it is *back*.
        gone: whether every connection is closed at once.
        busy: statuses to answer the next requests to git LFS with, and their Retry-After.
        refusals: status of every answer to the path that ends with the key.
        damage: what is committed in place of a file.
    """

    root: Path = Path()
    accounts: dict[str, Account] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    gone: bool = False
    busy: list[tuple[int, str]] = field(default_factory=list)
    refusals: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    damage: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def total(self) -> int:
        """Bytes of LFS content that came in."""
        return sum(self.received.values())

    def room(self) -> int | None:
        """How many bytes may still come in before the next cut; None for any number."""
        return self.cuts[0] - self.total if self.cuts else None


def answer(hub: HubServer, method: str, raw: str, token: str, body: bytes) -> Answer:
    """The answer to a request that uploads something: status, JSON value and headers."""
    uploads, path = hub.uploads, unquote(urlsplit(raw).path)
    for end, (status, headers) in uploads.refusals.items():
        if path.endswith(end):
            return status, {"error": "said by the test"}, headers
    account = uploads.accounts.get(token)
    if match := re.fullmatch(r"/lfs/([0-9a-f]{64})/(\d+)", path):  # addresses with a signature need no token
        return _part(uploads, match[1], int(match[2]), raw, body)
    if match := re.fullmatch(r"/lfs/([0-9a-f]{64})/complete", path):
        return _complete(uploads, match[1], json.loads(body))
    if account is None:
        return 401, {"error": "Invalid user token."}, {}
    if path == "/api/whoami-v2":
        return 200, {"type": "user", "name": account.name, "auth": {"accessToken": {"role": account.role}}}, {}
    if path == "/api/validate-yaml":
        return _validated(json.loads(body)["content"])
    if path == "/api/repos/create":
        return _create(hub, account, json.loads(body))
    match = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(?:\.git)?/(preupload|commit|branch|info)/(.+)", path)
    repo = hub.repos.get(match[1]) if match else None
    if match is None or repo is None:
        return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
    if match[1].partition("/")[0] not in account.may_write:
        return 403, {"error": "You don't have the rights to write here."}, {}
    if match[2] == "branch":
        return _branch(repo, match[3])
    if match[2] == "info":
        return _batch(hub, json.loads(body)["objects"])
    if match[3] not in repo.revisions:
        return 404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"}
    if match[2] == "preupload":
        return 200, {"files": [_mode(repo, file) for file in json.loads(body)["files"]]}, {}
    return _commit(hub, match[1], repo, map(json.loads, body.splitlines()))


def _validated(content: str) -> Answer:
    found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        data = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}
    wrong = [] if isinstance(data.get("license", ""), str) else [{"message": '"license" must be a string'}]
    return 400 if wrong else 200, {"errors": wrong, "warnings": []}, {}


def _create(hub: HubServer, account: Account, asked: dict[str, Any]) -> Answer:
    from tests.support.hub_server import Repo

    owner = asked["organization"] or account.name
    if owner not in account.may_write:
        return 403, {"error": f'You don\'t have the rights to create a model under the namespace "{owner}"'}, {}
    name = f"{owner}/{asked['name']}"
    if name in hub.repos:
        return 409, {"error": "You already created this model repo"}, {}
    folder = hub.uploads.root / name
    folder.mkdir(parents=True)
    hub.repos[name] = Repo(folder, private=asked.get("visibility") == "private")
    return 200, {"url": f"{hub.endpoint}/{name}", "name": name}, {}


def _branch(repo: Repo, name: str) -> Answer:
    if name in repo.revisions:
        return 409, {"error": "Reference already exists"}, {}
    repo.revisions = (*repo.revisions, name)
    return 200, {}, {}


def _mode(repo: Repo, file: dict[str, Any]) -> dict[str, Any]:
    name = file["path"]
    there = repo.entry(name) if (repo.folder / name).is_file() else None
    mode = "lfs" if name.endswith(".gguf") else "regular"
    oid = None if there is None else there["lfs"]["oid"] if "lfs" in there else there["oid"]
    return {"path": name, "uploadMode": mode, "shouldIgnore": False, **({"oid": oid} if oid else {})}


def _batch(hub: HubServer, objects: list[dict[str, Any]]) -> Answer:
    uploads = hub.uploads
    if uploads.busy:
        status, after = uploads.busy.pop(0)
        return status, {"error": "busy"}, {"Retry-After": after}
    found = []
    for one in objects:
        oid, nbytes = one["oid"], one["size"]
        if oid in uploads.stored:
            found.append({"oid": oid, "size": nbytes})
            continue
        address = f"{hub.endpoint}/lfs/{oid}"
        count = -(-nbytes // PART)
        numbered = {f"{number:05}": f"{address}/{number}?X-Amz-Signature=SECRET" for number in range(1, count + 1)}
        upload = {"href": f"{address}/complete", "header": {"chunk_size": str(PART), **numbered}}
        found.append({"oid": oid, "size": nbytes, "actions": {"upload": upload}})
    return 200, {"transfer": "multipart", "objects": found}, {}


def _part(uploads: Uploads, oid: str, number: int, raw: str, body: bytes) -> Answer:
    if dict(parse_qsl(urlsplit(raw).query)) != {"X-Amz-Signature": "SECRET"}:
        return 403, {"error": "SignatureDoesNotMatch"}, {}
    uploads.parts[oid, number] = body
    return 200, {}, {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}


def _complete(uploads: Uploads, oid: str, asked: dict[str, Any]) -> Answer:
    data = b"".join(uploads.parts.pop((oid, one["partNumber"])) for one in asked["parts"])
    if hashlib.sha256(data).hexdigest() != oid:
        return 422, {"error": "the sha256 is another one"}, {}
    uploads.stored[oid] = data
    return 200, {}, {}


def _commit(hub: HubServer, name: str, repo: Repo, lines: Iterable[dict[str, Any]]) -> Answer:
    uploads, files = hub.uploads, {}
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in uploads.stored:
                return 400, {"error": f"{value['path']} was not uploaded"}, {}
            files[value["path"]] = uploads.stored[value["oid"]]
    for file, data in files.items():
        (repo.folder / file).write_bytes(uploads.damage.get(file, data))
    uploads.commits += 1
    repo.commit = f"{uploads.commits:040x}"
    return 200, {"commitUrl": f"{hub.endpoint}/{name}/commit/{repo.commit}", "commitOid": repo.commit}, {}
