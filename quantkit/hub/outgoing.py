"""Files on their way to a hub, and what became of them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")


@dataclass(frozen=True)
class OutgoingFile:
    """A file to upload.

    Attributes:
        name: in the repository, without a folder.
        nbytes: its size in bytes.
        sha256: of its bytes, 64 digits.
        content: where its bytes are: a file, or the bytes themselves.
    """

    name: str
    nbytes: int
    sha256: str
    content: Path | bytes

    def git_hash(self) -> str:
        """The git hash of its blob, by which hubs list small files."""
        data = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def outgoing_bytes(name: str, data: bytes) -> OutgoingFile:
    """A file whose bytes are in memory."""
    return OutgoingFile(name, len(data), hashlib.sha256(data).hexdigest(), data)


@dataclass(frozen=True)
class Pushed:
    """The result of an upload, after it was compared with what was to be uploaded.

    Attributes:
        url: of the repository's page.
        revision: the commit, or the branch where the hub does not tell the commit.
        private: whether only its owners see it.
    """

    url: str
    revision: str
    private: bool


def harmless_line(error: BaseException) -> str:
    """The first line of an error without the queries of its addresses, which hold signatures."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return _QUERY.sub(r"\1", line)
