"""What a hub may answer: names that lead elsewhere, sizes and hashes that are none, files that are others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from unittest import mock

import httpx2
import huggingface_hub
from huggingface_hub import constants

from quantkit.errors import HubError, QuantkitError
from quantkit.hub import huggingface
from quantkit.hub.base_card import read_base_card
from quantkit.hub.huggingface import download, download_file
from quantkit.hub.patience import Patience
from quantkit.hub.source import HubId
from quantkit.system.progress import Reporter
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import place


def _blob(text: str) -> str:
    data = text.encode()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


_COMMIT = "c0ffee" * 6 + "c0de"
_SHA256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of b"foo"
_CONFIG, _INDEX = '{"a": 1}', '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "../b.safetensors"}}'
_SEEDS: Sequence[Mapping[str, Any]] = (
    {
        "info": {
            "id": "org/name", "sha": _COMMIT, "siblings": [
                {"rfilename": "config.json", "size": 8, "blobId": _blob(_CONFIG)},
                {"rfilename": "model.safetensors", "size": 3, "lfs": {"sha256": _SHA256, "size": 3, "pointerSize": 1}},
                {"rfilename": "sub/imatrix.gguf", "size": 3, "lfs": {"sha256": _SHA256, "size": 3, "pointerSize": 1}},
            ],
            "cardData": {"license": "mit", "language": ["en"], "pipeline_tag": "text-generation", "license_link": "L"},
        },
        "tree": [
            {"type": "file", "path": "config.json", "size": 8, "oid": _blob(_CONFIG)},
            {"type": "file", "path": "model.safetensors", "size": 3, "oid": "x",
             "lfs": {"oid": _SHA256, "size": 3, "pointerSize": 1}},
            {"type": "directory", "path": "sub", "oid": "y"},
        ],
        "files": {"config.json": _CONFIG, "model.safetensors": "foo", "sub/imatrix.gguf": "foo"},
    },
    {
        "info": {"id": "org/name", "sha": _COMMIT, "siblings": [
            {"rfilename": "config.json", "size": 3, "lfs": {"sha256": _SHA256, "size": 3, "pointerSize": 1}},
            {"rfilename": "model.safetensors.index.json", "size": len(_INDEX), "blobId": _blob(_INDEX)}]},
        "files": {"config.json": "foo", "model.safetensors.index.json": _INDEX},
        "headers": {"x-repo-commit": _COMMIT, "x-linked-size": "3"},
    },
    {"status": 403, "headers": {"x-error-code": "GatedRepo", "x-error-message": "a"}, "info": {"error": "b"}},
)  # fmt: skip
_WORDS: Sequence[Any] = (
    *(
        "info",
        "tree",
        "files",
        "headers",
        "status",
        "sha",
        "siblings",
        "rfilename",
        "size",
        "blobId",
        "lfs",
        "sha256",
        "cardData",
    ),
    *("../../x", "/tmp/x", "a/../../b", "C:\\x", "config.json", "adapter_config.json", "..", ".", "a//b", "weight_map"),
    *(
        "model.safetensors",
        "model.safetensors.index.json",
        "imatrix.gguf",
        "adapter_model.bin",
        _SHA256,
        _COMMIT,
        "main",
    ),
    *("etag", "location", "http://127.0.0.1/x", "/org/name/resolve/main/../x", "x-linked-etag", "x-linked-size", "3"),
    *("license", "language", "license_name", "license_link", "tags", 401, 404, 416, 429, 500, 503, 302, 307, 204, 206),
)


def _read(data: bytes) -> None:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        told = {"info": None}
    told = told if isinstance(told, dict) else {"info": told}
    source = HubId("org/name")
    (cache := place() / "cache").mkdir()
    huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(_Hub(told)), timeout=1))
    refusals: list[QuantkitError] = []
    try:
        with (
            mock.patch.multiple(
                constants,
                HF_HUB_OFFLINE=False,
                HF_HUB_CACHE=str(cache),
                HF_HUB_DISABLE_XET=True,
                HF_HOME=str(cache),
                AGENT_HARNESSES_PATH=str(cache / "agents"),
            ),
            mock.patch("time.sleep"),
            mock.patch.object(huggingface, "PATIENCE", Patience(sleep=lambda seconds: None)),
        ):
            for get in (
                lambda: download(source, "any", Reporter()),
                lambda: download_file(source, _last, Reporter()),
                lambda: read_base_card("org/name"),
            ):
                try:
                    get()
                except QuantkitError as error:
                    refusals.append(error)
    finally:
        huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)
    for path in cache.rglob("*"):
        assert path.resolve().is_relative_to(cache), f"a link leads to {path.resolve()}"
    if len(refusals) > 1:
        raise refusals[0]


def _last(names: Collection[str]) -> str:
    if not names:
        raise HubError("no file")
    return max(names)


class _Hub:
    """Answers requests with what was told."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._told = told

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        told, status = self._told, self._told.get("status", 200)
        status = status if isinstance(status, int) and 200 <= status < 600 else 200
        headers = told.get("headers")
        extra = {k: v for k, v in (headers if isinstance(headers, dict) else {}).items() if _is_header(k, v)}
        if request.url.path.startswith("/api/"):
            which = "tree" if "/tree/" in request.url.path else "info"
            content = json.dumps(told.get(which)).encode("utf-8", "surrogatepass")
            return httpx2.Response(status, content=content, headers={"content-type": "application/json", **extra})
        files = told.get("files")
        name = request.url.path.partition("/resolve/")[2].partition("/")[2]
        text = files.get(name) if isinstance(files, dict) else None
        if not isinstance(text, str):
            return httpx2.Response(404, headers={"x-error-code": "EntryNotFound", **extra})
        content = text.encode("utf-8", "replace")
        known = {
            "etag": f'"{self._digest(name)}"',
            "x-repo-commit": _COMMIT,
            "content-length": str(len(content)),
            **extra,
        }
        return httpx2.Response(status, content=b"" if request.method == "HEAD" else content, headers=known)

    def _digest(self, name: str) -> object:
        """What is listed of a file, as a hub says it again."""
        info = self._told.get("info")
        listed = info.get("siblings") if isinstance(info, dict) else None
        for file in listed if isinstance(listed, list) else ():
            if isinstance(file, dict) and file.get("rfilename") == name:
                lfs = file.get("lfs")
                return _ascii(lfs.get("sha256") if isinstance(lfs, dict) else file.get("blobId"))
        return ""


def _ascii(value: object) -> str:
    return str(value).encode("ascii", "ignore").decode().replace("\n", "")[:200]


def _is_header(key: object, value: object) -> bool:
    return all(isinstance(one, str) and one.isascii() and one.isprintable() for one in (key, value)) and bool(key)


READER = Reader(
    "hub-answers",
    lambda: [json.dumps(seed).encode() for seed in _SEEDS[:1]],
    _read,
    JsonMutator(_WORDS),
    seconds=4.0,
    allows=frozenset({"os.symlink"}),  # the guard takes the end of a link as beginning at the current folder
)
