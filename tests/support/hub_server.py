"""A small Hugging Face hub on loopback: what huggingface_hub asks of one, with faults on request.

Weights are kept as on the hub: ``resolve`` answers with a redirect to where the content is, and tells size and sha256
in ``X-Linked-Size`` and ``X-Linked-Etag``; small files come from ``resolve`` itself. Uploads are answered by
:mod:`tests.support.hub_uploads`.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from tests.support.hub_troubles import Asked, Trouble
from tests.support.hub_uploads import Uploads, answer

_LARGE = (".safetensors", ".bin", ".gguf", ".pth", ".onnx")


@dataclass
class Repo:
    """A repository.

    Attributes:
        folder: its files.
        commit: the one commit that it has.
        revisions: branches and tags, all of them at this commit.
        denied: status and error code of every answer that gives content, such as ``(403, "GatedRepo")``.
        cut: bytes of a file after which the connection breaks, once.
        content: what is sent in place of a file's content.
        trouble: what answers requests for a file's content, until it returns False.
        private: whether only those with a token see it.
        card: metadata of its card.
    """

    folder: Path
    commit: str = "c0ffee" * 6 + "c0de"
    revisions: tuple[str, ...] = ("main",)
    denied: tuple[int, str] | None = None
    cut: dict[str, int] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)
    trouble: dict[str, Trouble] = field(default_factory=dict)
    private: bool = False
    card: dict[str, Any] = field(default_factory=dict)

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def entry(self, name: str) -> dict[str, Any]:
        """A file as the tree API lists it."""
        data = (self.folder / name).read_bytes()
        found = {"type": "file", "path": name, "size": len(data), "oid": _git_hash(data)}
        if name.endswith(_LARGE):
            found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return found


@dataclass(frozen=True)
class Request:
    """A request that came in; *range* is its Range header, *token* its Authorization."""

    method: str
    path: str
    range: str | None
    token: str = ""


class HubServer:
    """The server; a context manager.

    Attributes:
        repos: by id; may be changed while it runs.
        requests: all that were made.
        uploads: what came in, and what is to go wrong with it.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.uploads = Uploads()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def asked_for(self, name: str) -> list[Request]:
        """The requests for the content of a file."""
        return [one for one in self.requests if one.method == "GET" and one.path.endswith(f"/{name}")]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which holds each body back for 40 ms
    server_hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            self._upload(b"")
        else:
            self._answer()

    def do_POST(self) -> None:
        if not self._gone():
            self._upload(self.rfile.read(int(self.headers["Content-Length"] or 0)))

    def do_PUT(self) -> None:
        """Content for git LFS, block by block, so that the connection can break anywhere."""
        if self._gone():
            return
        uploads, oid = self.server_hub.uploads, self.path.split("/")[2]
        body, left = b"", int(self.headers["Content-Length"])
        while left:
            room = uploads.room()
            block = self.rfile.read(min(left, 1 << 14) if room is None else min(left, 1 << 14, room))
            body, left = body + block, left - len(block)
            uploads.received[oid] = uploads.received.get(oid, 0) + len(block)
            if uploads.room() == 0:
                uploads.cuts.pop(0)
                uploads.gone = True
                self._gone()
                return
        self._upload(body)

    def _gone(self) -> bool:
        """Close the connection without an answer, if the network is gone."""
        if self.server_hub.uploads.gone:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        return self.server_hub.uploads.gone

    def _upload(self, body: bytes) -> None:
        if self._gone():
            return
        self.server_hub.requests.append(Request(self.command, unquote(urlsplit(self.path).path), None))
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        status, value, headers = answer(self.server_hub, self.command, self.path, token, body)
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def _answer(self) -> None:
        if self._gone():
            return None
        path = unquote(urlsplit(self.path).path)
        self.server_hub.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization", ""))
        )
        match = re.fullmatch(
            r"/(?P<what>api/models/)?(?P<repo>[^/]+/[^/]+)"
            r"(?:/(?P<verb>revision|tree|resolve|cdn)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?",
            path,
        )
        repo = self.server_hub.repos.get(match["repo"]) if match else None
        if match is None or repo is None:
            # The hub does not tell strangers what exists.
            return self._send(401, headers={"X-Error-Code": "RepoNotFound"})
        revision, name = match["revision"] or "main", match["file"]
        if revision not in (*repo.revisions, repo.commit):
            return self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        if match["what"]:
            return self._json(self._tree(repo) if match["verb"] == "tree" else self._info(match["repo"], repo))
        if repo.denied is not None:
            return self._send(repo.denied[0], headers={"X-Error-Code": repo.denied[1]})
        if not (repo.folder / name).is_file():
            return self._send(404, headers={"X-Error-Code": "EntryNotFound"})
        return self._file(match["repo"], repo, name, direct=match["verb"] == "cdn")

    def _info(self, name: str, repo: Repo) -> dict[str, Any]:
        siblings = []
        for file in repo.files():
            entry = repo.entry(file)
            sibling = {"rfilename": file, "size": entry["size"], "blobId": entry["oid"]}
            if "lfs" in entry:
                sibling["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}
            siblings.append(sibling)
        return {
            "id": name,
            "modelId": name,
            "sha": repo.commit,
            "private": repo.private,
            "tags": [],
            "siblings": siblings,
            "cardData": repo.card,
        }

    def _tree(self, repo: Repo) -> list[dict[str, Any]]:
        return [repo.entry(file) for file in repo.files()]

    def _file(self, repo_id: str, repo: Repo, name: str, *, direct: bool) -> None:
        entry = repo.entry(name)
        digest = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}
        if "lfs" in entry and not direct:
            headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-Etag": f'"{digest}"'}
            headers["Location"] = f"{self.server_hub.endpoint}/{repo_id}/cdn/{repo.commit}/{name}"
            return self._send(302, headers=headers)
        data = repo.content.get(name, (repo.folder / name).read_bytes())
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if "Range" in self.headers else 0  # type: ignore[index]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        trouble = repo.trouble.get(name) if self.command == "GET" else None
        if trouble is not None and trouble(Asked(self, data, start, headers)):
            return None
        cut = repo.cut.pop(name, None) if self.command == "GET" else None
        return self._send(206 if start else 200, data[start:], headers, cut=cut)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
