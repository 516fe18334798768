"""What a node does for an evaluation that is divided over several: it runs files on some chunks of the text.

An actor of Ray's. The model of the last question stays loaded in a process of its own. Answers are values: an error
that a user can act on is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from quantkit.cluster.dealing import Opened
from quantkit.cluster.kind import check_version, node_kind
from quantkit.cluster.node_errors import disk_error
from quantkit.errors import QuantkitError
from quantkit.evaluate.process import WORKER, Messages, Runner, TextTask
from quantkit.evaluate.speed import Speed
from quantkit.gguf.fingerprint import check_fingerprint
from quantkit.kernels.logit_steps import Compared
from quantkit.kernels.logits import Tokens
from quantkit.system.kept_child import KeptChild
from quantkit.system.temporary import temporary_folder

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Share:
    """What a node is to do.

    Attributes:
        number: of the share.
        first: the first chunk.
        chunks: how many; 0 for what is not of the text.
    """

    number: int
    first: int = 0
    chunks: int = 0


@dataclass(frozen=True, eq=False)
class Part:
    """Some chunks of a text.

    Attributes:
        ids: their tokens, int32 [chunks * context].
        sha256: of the whole text's tokens.
        context: tokens of a chunk.
        chunks: how many.
    """

    ids: Tokens
    sha256: str
    context: int
    chunks: int


@dataclass(frozen=True)
class File:
    """A model's file.

    Attributes:
        path: absolute.
        fingerprint: where the evaluation was begun, see :func:`quantkit.gguf.fingerprint.fingerprint`.
    """

    path: Path
    fingerprint: str


class EvaluateNode:
    """One node's part of an evaluation."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._child = KeptChild(WORKER)
        self._checked: set[File] = set()

    def open(self, version: str, n_gpu_layers: int, threads: int, cards: str) -> Opened | QuantkitError:
        """Begin.

        Args:
            version: of the quantkit that asks.
            n_gpu_layers, threads: as in :class:`~quantkit.evaluate.process.Runner`.
            cards: the graphics cards of the node that compute.
        """
        try:
            check_version(version)
            self._folder = self._held.enter_context(temporary_folder())
            self._runner = Runner(n_gpu_layers, threads, child=self._child)
            return Opened(node_kind(self._child.ask({"kind": True})["kind"], cards))
        except QuantkitError as error:
            return error

    def keep(self, file: File, part: Part) -> bytes | QuantkitError:
        """A reference's logits on some chunks: a file of logits."""

        def work() -> bytes:
            task = self._task(part)
            self._runner.keep(file.path, task, speed=False)
            return task.logits.read_bytes()

        return self._answer(file, work)

    def compare(self, file: File, part: Part, logits: bytes) -> Compared | QuantkitError:
        """Compare a file with the *logits* of the reference on the same chunks."""

        def work() -> Compared:
            task = self._task(part)
            task.logits.write_bytes(logits)
            return self._runner.compare(file.path, task, self._folder / "compared.npz", speed=False)[0]

        return self._answer(file, work)

    def speed(self, file: File) -> Speed | QuantkitError | None:
        """How fast a file is on this node."""
        return self._answer(file, lambda: self._runner.keep(file.path, None, speed=True))

    def answers(
        self, file: File, talks: Sequence[Messages], stops: Sequence[str], longest: int
    ) -> list[str] | QuantkitError:
        """A file's answers, see :meth:`quantkit.evaluate.process.Runner.answer`."""
        return self._answer(file, lambda: self._runner.answer(file.path, talks, stops, longest))

    def _task(self, part: Part) -> TextTask:
        np.save(self._folder / "ids.npy", part.ids)
        return TextTask(self._folder / "ids.npy", part.sha256, part.context, part.chunks, self._folder / "logits")

    def _answer(self, file: File, work: Callable[[], _Found]) -> _Found | QuantkitError:
        try:
            if file not in self._checked:
                check_fingerprint(file.path, file.fingerprint)
                self._checked.add(file)
            return work()
        except QuantkitError as error:
            return error
        except OSError as error:
            return disk_error(self._folder, error)
