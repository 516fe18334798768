"""How a package is pushed, and what came of it, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantkit.hub.outgoing import OutgoingFile
from quantkit.hub.target import PushTarget
from quantkit.jobs.push_license import PushLicense


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    Attributes:
        public: let everybody see the repository; without it, one that is made is private.
        branch: the branch to push to, made if it does not exist; None for the default one.
        license: the license's name as the hub spells it; None to find it out.
        accept_license: push although the license does not allow it, or is not known.
        base_models: ``org/name`` of the models it was made from; empty for those of the manifest.
    """

    public: bool = False
    branch: str | None = None
    license: str | None = None
    accept_license: bool = False
    base_models: tuple[str, ...] = ()


@dataclass(frozen=True)
class PushResult:
    """What was pushed, or with a dry run what would be.

    Attributes:
        target: where to.
        url: of its page; "" for a dry run.
        revision: the commit or branch; "" for a dry run, and in Ollama.
        private: whether only its owners see it.
        files: what it consists of.
        card: the card that the hub shows; "" in Ollama, which has none.
        license: what was found out about the license.
        dry_run: whether nothing was sent.
        notes: what the user should know.
    """

    target: PushTarget
    url: str
    revision: str
    private: bool
    files: tuple[OutgoingFile, ...]
    card: str
    license: PushLicense
    dry_run: bool
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        terms = self.license.terms
        return {
            "target": str(self.target),
            "url": self.url,
            "revision": self.revision,
            "private": self.private,
            "dry_run": self.dry_run,
            "files": [{"file": file.name, "size": file.nbytes, "sha256": file.sha256} for file in self.files],
            "size": self.nbytes,
            "license": terms.name,
            "license_link": terms.link,
            "conditions": list(terms.conditions),
            "objections": list(self.license.objections),
            "base_models": list(self.license.bases),
            "card": self.card,
            "notes": list(self.notes),
        }
