"""What goes to a node of a farm, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.cluster.connection import DISK
from quantkit.errors import HubError, OutputError, QuantkitError
from quantkit.jobs.recipe import Recipe

BUILT, KEPT, FAILED = "built", "kept", "failed"


@dataclass(frozen=True)
class Wanted:
    """A package to build.

    Attributes:
        label: for people, unique in a farm.
        recipe: what to build; its paths are absolute.
        device: where to compute, None for what the farm says.
        threads: worker threads, None for what the farm says.
    """

    label: str
    recipe: Recipe
    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Item:
    """A package to build, and how.

    Attributes:
        key: its number in the farm.
        label: as in :class:`Wanted`.
        recipe: what to build.
        device: ``cpu`` or ``cuda``.
        threads: worker threads.
        verify: check the files by loading them.
        overwrite, fsync: as in :class:`~quantkit.jobs.run_options.RunOptions`.
        version: of the quantkit that asks, which the nodes must have.
    """

    key: int
    label: str
    recipe: Recipe
    device: str
    threads: int
    verify: bool
    overwrite: bool
    fsync: bool
    version: str

    @property
    def folder(self) -> Path:
        """The package."""
        return self.recipe.folder


@dataclass(frozen=True)
class Needs:
    """What a build takes of its node, by its plan.

    Attributes:
        threads: processors.
        memory: peak bytes of the process.
        cards: graphics cards.
        disk: bytes of the files, with intermediate ones.
    """

    threads: int
    memory: int
    cards: int
    disk: int

    def resources(self, *, disk: bool) -> dict[str, float]:
        """By Ray's names. *disk*: nodes say how much they have."""
        wanted = {"CPU": float(self.threads), "memory": float(self.memory)}
        wanted |= {"GPU": float(self.cards)} if self.cards else {}
        return wanted | ({DISK: float(self.disk)} if disk else {})


@dataclass(frozen=True)
class Failure:
    """Why a build failed.

    Attributes:
        kind: the class in :mod:`quantkit.errors`, or Ray's exception.
        message, hint: the error's own.
        elsewhere: another node may do better.
    """

    kind: str
    message: str
    hint: str
    elsewhere: bool = False

    @classmethod
    def of(cls, error: QuantkitError, *, planning: bool = False) -> Failure:
        """Of an error; a plan that is refused is refused everywhere, but for a download."""
        elsewhere = isinstance(error, HubError) or (isinstance(error, OutputError) and not planning)
        return cls(type(error).__name__, str(error), error.hint, elsewhere)

    def to_json(self) -> dict[str, str]:
        """As ``--json`` shows errors."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint}


@dataclass(frozen=True)
class Answer:
    """What a node answers.

    Attributes:
        needs: of a plan: what the build takes.
        kept: the package is there already.
        seconds: of a build: by stage.
        size: of a build: bytes of its files.
        failure: None if nothing failed.
    """

    needs: Needs | None = None
    kept: bool = False
    seconds: Mapping[str, float] | None = None
    size: int = 0
    failure: Failure | None = None


@dataclass(frozen=True)
class Outcome:
    """How a build of a farm ended.

    Attributes:
        label, folder: which.
        state: ``built``, ``kept`` (it was there, verified) or ``failed``.
        node: where it was built last; "" if it was not begun.
        attempts: how often it was begun.
        seconds: the last attempt's.
        size: bytes of its files; 0 if they were not written now.
        failure: why it failed.
    """

    label: str
    folder: Path
    state: str
    node: str = ""
    attempts: int = 0
    seconds: float = 0.0
    size: int = 0
    failure: Failure | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "build": self.label,
            "folder": str(self.folder),
            "state": self.state,
            "node": self.node,
            "attempts": self.attempts,
            "seconds": round(self.seconds, 3),
            "size": self.size,
            **({} if self.failure is None else {"error": self.failure.to_json()}),
        }
