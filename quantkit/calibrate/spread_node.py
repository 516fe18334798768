"""What a node does for an importance matrix that is divided over several: it computes groups of chunks.

An actor of Ray's; the model is loaded in a process of its own. Answers are values: an error that a user can act on is
one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quantkit.calibrate.crash import calibration_crash
from quantkit.calibrate.sums import Sums
from quantkit.calibrate.sums_file import read_sums_file, write_sums_file
from quantkit.cluster.dealing import Opened
from quantkit.cluster.kind import check_version, node_kind
from quantkit.cluster.node_errors import disk_error
from quantkit.errors import QuantkitError
from quantkit.gguf.fingerprint import check_fingerprint
from quantkit.system.child_process import ChildError
from quantkit.system.kept_child import KeptChild
from quantkit.system.temporary import temporary_folder

WORKER = "quantkit.calibrate.group_worker"
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Group:
    """Chunks that go through the model together.

    Attributes:
        number: the first of them.
    """

    number: int


@dataclass(frozen=True)
class Asked:
    """What is computed.

    Attributes:
        gguf: the model, absolute.
        fingerprint: of the model where the work was begun.
        ids: token ids of all chunks.
        context: tokens of a chunk.
        count: chunks.
        n_gpu_layers: layers to put on cards, -1 for all.
        version: of the quantkit that asks.
    """

    gguf: Path
    fingerprint: str
    ids: Sequence[int]
    context: int
    count: int
    n_gpu_layers: int
    version: str


class ImatrixNode:
    """One node's part of a matrix."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._child = KeptChild(WORKER)

    def open(self, asked: Asked, threads: int, cards: str) -> Opened | QuantkitError:
        """Load the model.

        Args:
            asked: what is computed.
            threads: CPU threads.
            cards: the graphics cards of the node that compute.

        Returns:
            With the layers that are on a GPU, and the tokens of the context that the model was trained with.
        """

        def work() -> Opened:
            check_version(asked.version)
            check_fingerprint(asked.gguf, asked.fingerprint)
            self._gguf = asked.gguf
            self._folder = self._held.enter_context(temporary_folder())
            question = {
                "gguf": str(asked.gguf),
                "ids": list(asked.ids),
                "context": asked.context,
                "count": asked.count,
                "n_gpu_layers": asked.n_gpu_layers,
                "threads": threads,
            }
            found = self._child.ask({"open": question})
            return Opened(node_kind(found["kind"], cards), (found["offloaded"], found["trained"]))

        return self._answer(work)

    def compute(self, group: Group, sums: dict[str, Sums] | None) -> dict[str, Sums] | QuantkitError | None:
        """Compute a group.

        Args:
            group: which.
            sums: of all chunks before it; None if they are not known yet.

        Returns:
            The sums with it; None if its products are kept until :meth:`add`.
        """
        return self._answer(lambda: self._ask({"group": group.number}, sums))

    def add(self, group: Group, sums: dict[str, Sums]) -> dict[str, Sums] | QuantkitError | None:
        """Add the products of a group to the sums of all chunks before it."""
        return self._answer(lambda: self._ask({"add": group.number}, sums))

    def _ask(self, question: dict[str, Any], sums: dict[str, Sums] | None) -> dict[str, Sums] | None:
        before, after = self._folder / "before.npz", self._folder / "after.npz"
        if sums is not None:
            write_sums_file(before, sums)
        places = {"sums": None if sums is None else str(before), "out": str(after)}
        return read_sums_file(after) if self._child.ask(question | places)["added"] else None

    def _answer(self, work: Callable[[], _Found]) -> _Found | QuantkitError:
        try:
            return work()
        except QuantkitError as error:
            return error
        except ChildError as error:
            return calibration_crash(self._gguf, error)
        except OSError as error:
            return disk_error(self._gguf, error)
