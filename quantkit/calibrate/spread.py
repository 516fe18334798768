"""One importance matrix over the nodes of a Ray cluster: groups of chunks are dealt, and added in the text's order.

What llama.cpp computes for a group does not depend on the groups before it, but the sums do: floats are added row by
row, and another order gives other bits. So a node that is ahead keeps the rows of its group until its turn has come,
and the sums go from group to group. They come back here after each, so a lost node costs its group. The file is that of
one machine, however many nodes there are and whichever is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from quantkit import __version__
from quantkit.calibrate.chunks import Chunks
from quantkit.calibrate.imatrix_file import Progress, read_sums, write_imatrix
from quantkit.calibrate.spread_node import Asked, Group, ImatrixNode
from quantkit.calibrate.sums import Sums
from quantkit.cluster.connection import connected
from quantkit.cluster.dealing import Dealing, Heard, Worker, fitting_nodes, nothing_heard
from quantkit.system.progress import Reporter

Told = Callable[[dict[str, int]], None]
_GroupSums = dict[str, Sums]


def compute_spread(
    address: str, question: Mapping[str, Any], told: Told, reporter: Reporter, heard: Heard = nothing_heard
) -> None:
    """Do on a cluster what :mod:`quantkit.calibrate.worker` does for the same question, and tell the same.

    Whatever ends it early, what is done is written and told as saved.

    Args:
        address: of the cluster, as :func:`quantkit.cluster.connection.connected` takes it.
        question: as the worker gets it; ``model`` of its ``progress`` is what the nodes' files must have.
        told: as :func:`quantkit.system.child_process.follow_module` has it.
        reporter: gets a note of nodes that are left out.
        heard: told of the groups.

    Raises:
        QuantkitError: no cluster, no node that is left, or the first error of any node.
    """
    before = Progress(**question["progress"])
    gguf, out = Path(question["gguf"]).absolute(), Path(question["out"])
    chunks = Chunks(question["ids"], before.context, before.chunks)
    asked = Asked(gguf, before.model, chunks.ids, chunks.context, chunks.count, question["n_gpu_layers"], __version__)
    begun = read_sums(Path(question["begun"])) if question["begun"] else {}

    def write(run: _Run) -> None:
        progress = None if run.done == chunks.count else Progress(**{**question["progress"], "done": run.done})
        write_imatrix(out, run.sums, question["data"], chunks.context, progress)

    with connected(address, out.parent) as ray:
        dealing = Dealing(ray, reporter, alike=True, heard=heard)
        run = _Run(dealing, chunks, told, write, question["save_seconds"], before.done, begun)
        try:
            cards = asked.n_gpu_layers != 0
            dealing.hire(
                fitting_nodes(ray, cards=False),
                ImatrixNode,
                lambda actor, node, processors: actor.open.remote(
                    asked, question["threads"] or processors, node.cards if cards else ""
                ),
                cards=cards,
            )
            dealing.kind()
            offloaded, trained = dealing.workers[0].facts
            told({"offloaded": offloaded, "trained": trained})
            groups = [Group(first) for first in range(before.done, chunks.count, chunks.together)]
            dealing.run(groups, run.ask, run.answered, run.takes)
        except BaseException:
            if before.done < run.done < chunks.count:
                run.save()
            raise
        finally:
            dealing.close()
    write(run)


@dataclass(eq=False)
class _Run:
    """A computation under way.

    Attributes:
        dealing: the nodes.
        chunks: the text.
        told: hears how far it is.
        write: writes what is done.
        save_seconds: seconds between two writings.
        done: chunks that are in the sums.
        sums: of all chunks up to these.
        held: groups that a node has computed and whose turn it is not yet.
        adding: groups whose rows a node is adding.
    """

    dealing: Dealing
    chunks: Chunks
    told: Told
    write: Callable[[_Run], None]
    save_seconds: float
    done: int
    sums: _GroupSums
    held: dict[Group, Worker] = field(default_factory=dict)
    adding: set[Group] = field(default_factory=set)
    saved: float = field(default_factory=monotonic)

    def ask(self, worker: Worker, group: Group) -> Any:
        """Let a node compute a group; the first in the order is added at once."""
        return worker.actor.compute.remote(group, self.sums if group.number == self.done else None)

    def takes(self, worker: Worker, group: Group) -> bool:
        """Whether a node is free, and keeps no rows; whatever it keeps, it takes the group that all wait for."""
        given: list[Group] = worker.given
        if any(one not in self.adding and self.held.get(one) is not worker for one in given):
            return False
        return worker not in self.held.values() or group.number == self.done

    def answered(self, worker: Worker, group: Group, sums: _GroupSums | None) -> bool:
        """Go on with the sums, if they have come."""
        if sums is None:
            self.held[group] = worker
        else:
            self.adding.discard(group)
            self.sums, self.done = sums, self.chunks.after(group.number)
            self.told({"chunks": self.done})
            if self.done < self.chunks.count and monotonic() - self.saved > self.save_seconds:
                self.save()
        following = Group(self.done)
        owner = self.held.pop(following, None)
        if owner is not None and following in owner.given:  # else its node was lost, and it is dealt again
            self.adding.add(following)
            self.dealing.put(owner, following, owner.actor.add.remote(following, self.sums))
        return sums is not None

    def save(self) -> None:
        """Write what is done, and say so."""
        self.write(self)
        self.told({"saved": self.done})
        self.saved = monotonic()
