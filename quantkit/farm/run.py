"""The farm: plans and builds as tasks of Ray's, again where a node is lost, and one result of all.

Ray places every task where its resources are. Here is only what Ray does not know: which errors another node may not
have, which builds no node can hold, and what is there already.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from quantkit import __version__
from quantkit.cluster.board import open_board
from quantkit.cluster.connection import DISK, Node, connected, nodes
from quantkit.errors import QuantkitError
from quantkit.farm import node as there
from quantkit.farm.events import Events
from quantkit.farm.losses import NODE_DIED, lost, too_large
from quantkit.farm.values import BUILT, FAILED, KEPT, Answer, Failure, Item, Needs, Outcome, Wanted
from quantkit.jobs.run_options import RunOptions

# How often a build is begun.
_ATTEMPTS = 3
# Seconds between two looks at the board, and those that interrupted builds have to clean up.
_TICK, _GRACE = 0.3, 15.0
# Plans open CUDA devices, and share them.
_CARD_OF_A_PLAN = 0.1


@dataclass
class _Work:
    """A build on its way; the only values here that change."""

    item: Item
    needs: Needs | None = None
    attempts: int = 0
    node: str = ""
    begun: float = 0.0
    avoided: set[str] = field(default_factory=set)


def farm(
    wanted: Sequence[Wanted],
    *,
    ray_address: str | None = None,
    verify: bool = True,
    events: Events | None = None,
    run: RunOptions | None = None,
) -> tuple[Outcome, ...]:
    """Build many packages on a Ray cluster. What is there already, whole and made from the same, is not built again.

    Args:
        wanted: the packages, see :func:`quantkit.farm.recipes.read_recipes`.
        ray_address: ``HOST:PORT`` or ``auto``; None for a cluster of this machine alone.
        verify: load every GGUF file and check it.
        events: hears of everything that happens.
        run: how to build: a recipe's own ``device`` and ``threads`` come first; by default :func:`fair_threads`.

    Returns:
        How each build ended, in the order given; a failed one raises nothing.

    Raises:
        QuantkitError: Ray is not installed, or its cluster does not answer.
    """
    if not wanted:
        return ()
    run = run or RunOptions()
    with connected(ray_address, wanted[0].recipe.folder) as ray:
        present = nodes(ray)
        items = [_item(key, one, run, verify, present, len(wanted)) for key, one in enumerate(wanted)]
        with _cluster_stays(), _cancelled_at_the_end(ray) as pending:
            return _Farm(ray, items, pending, events or Events()).run()


def _item(key: int, wanted: Wanted, run: RunOptions, verify: bool, present: Sequence[Node], count: int) -> Item:
    asked = wanted.device or run.device
    cards = any(node.resources.get("GPU") for node in present)
    # Ray shows a build the one card that it gets, which is its first.
    device = "cpu" if asked == "cpu" or (asked == "auto" and not cards) else "cuda"
    threads = wanted.threads or run.threads or fair_threads(present, count, cards=device == "cuda")
    return Item(
        key, wanted.label, wanted.recipe, device, threads, verify, run.overwrite, run.fsync, version=__version__
    )


def fair_threads(present: Sequence[Node], builds: int, *, cards: bool) -> int:
    """Processors for each build, at least one, at most a node's.

    Many builds with one thread each do more than one after the other with many, so all share the cluster evenly. Of
    those that have a card to themselves only as many run as there are cards, and only they share.
    """
    owners = [node.resources for node in present if node.resources.get("GPU")]
    if cards and owners:
        return max(1, min(int(own.get("CPU", 0) // min(max(own["GPU"], 1), builds)) for own in owners))
    processors = [int(node.resources.get("CPU", 0)) for node in present]
    return max(1, min(sum(processors) // builds, max(processors)))


@contextmanager
def _cluster_stays() -> Iterator[None]:
    """An error of Ray's that no build's task has answered with: what the farm itself needs of the cluster is gone."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise QuantkitError(
            f"this machine's part of the Ray cluster was lost ({type(error).__name__})",
            hint="run the same command again: what is published is kept",
        ) from None


@contextmanager
def _cancelled_at_the_end(ray: Any) -> Iterator[dict[Any, _Work]]:
    """The tasks that are not done; interrupted, they get the time to remove what they have begun."""
    pending: dict[Any, _Work] = {}
    try:
        yield pending
    finally:
        for ref in pending:
            with suppress(Exception):  # whatever Ray says of a task that has just ended
                ray.cancel(ref)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=_GRACE)


class _Farm:
    """One run."""

    def __init__(self, ray: Any, items: Sequence[Item], pending: dict[Any, _Work], events: Events) -> None:
        self.ray, self.pending, self.events = ray, pending, events
        self.work = [_Work(item) for item in items]
        self.outcomes: dict[int, Outcome] = {}
        self.board = open_board(ray)
        self.lost: set[str] = set()
        self.nodes = nodes(ray)
        self.known = {node.id: node.name for node in self.nodes}

    def run(self) -> tuple[Outcome, ...]:
        """Until every build has ended."""
        self.events.start([work.item for work in self.work], [node.name for node in self.nodes])
        # Builds of one checkpoint after each other: the first brings it into a node's cache.
        for work in sorted(self.work, key=lambda work: str(work.item.recipe.model)):
            self._plan(work)
        while self.pending:
            ready, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=_TICK)
            self._hear()
            for ref in ready:
                self._answered(self.pending.pop(ref), ref)
            self._look_at_nodes()
        return tuple(self.outcomes[work.item.key] for work in self.work)

    def _plan(self, work: _Work) -> None:
        share = {"num_gpus": _CARD_OF_A_PLAN} if work.item.device == "cuda" else {}
        wanted = {"CPU": 1.0, **({"GPU": 1.0} if share else {})}
        if not self._place(work, wanted):
            return
        self._submit(work, there.plan, (), {"num_cpus": 1, **share})

    def _build(self, work: _Work) -> None:
        assert work.needs is not None
        wanted = self._wanted(work.needs)
        if not self._place(work, wanted):
            return
        named: dict[str, Any] = {
            "num_cpus": wanted["CPU"],
            "memory": wanted["memory"],
            "num_gpus": wanted.get("GPU", 0),
        }
        named |= {"resources": {DISK: wanted[DISK]}} if DISK in wanted else {}
        work.attempts += 1
        self._submit(work, there.run, (work.attempts > 1,), named)

    def _wanted(self, needs: Needs) -> dict[str, float]:
        return needs.resources(disk=any(DISK in node.resources for node in self.nodes))

    def _place(self, work: _Work, wanted: Mapping[str, float]) -> bool:
        """Whether a node could hold it; otherwise it has failed."""
        if any(node.has(wanted) for node in self.nodes):
            return True
        self._fail(work, too_large(wanted, self.nodes))
        return False

    def _submit(self, work: _Work, function: Any, more: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        chosen = dict(options)
        wanted = {"CPU": 1.0} if work.needs is None else self._wanted(work.needs)
        others = [node for node in self.nodes if node.id not in work.avoided and node.has(wanted)]
        if others and work.avoided:
            chosen["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(work.avoided))})"}
        work.node, work.begun = "", time.monotonic()
        task = self.ray.remote(function).options(max_retries=0, **chosen)
        self.pending[task.remote(work.item, self.board, *more)] = work

    def _hear(self) -> None:
        for key, what, value in self.ray.get(self.board.take.remote()):
            work = self.work[key]
            if key in self.outcomes:
                continue
            if what == "begun":
                work.node, work.begun = value, time.monotonic()
                self.events.begun(work.item, self.known.get(value, value), work.attempts)
            elif what == "planning":
                work.node = value
            else:
                self.events.phase(work.item, *value)

    def _answered(self, work: _Work, ref: Any) -> None:
        from ray.exceptions import RayError

        try:
            answer: Answer = self.ray.get(ref)
        except RayError as error:
            answer = Answer(failure=lost(type(error).__name__, self.known.get(work.node, work.node)))
        if answer.failure is not None:
            self._failed(work, answer.failure)
        elif answer.needs is not None:
            work.needs = answer.needs
            self.events.planned(work.item, answer.needs)
            self._build(work)
        else:
            self._end(work, KEPT if answer.kept else BUILT, size=answer.size)

    def _failed(self, work: _Work, failure: Failure) -> None:
        """Again on another node, if that may help."""
        planning = work.needs is None
        work.attempts += planning
        if not failure.elsewhere or work.attempts >= _ATTEMPTS:
            self._fail(work, failure)
            return
        self.events.retried(work.item, self.known.get(work.node, work.node), failure)
        work.avoided |= {work.node} - {""}
        if failure.kind == NODE_DIED:
            self.lost |= {work.node}
        self._look_at_nodes()
        if planning:
            self._plan(work)
        else:
            self._build(work)

    def _fail(self, work: _Work, failure: Failure) -> None:
        self._end(work, FAILED, failure=failure)

    def _end(self, work: _Work, state: str, *, size: int = 0, failure: Failure | None = None) -> None:
        seconds = time.monotonic() - work.begun if work.begun else 0.0
        node = self.known.get(work.node, work.node)
        outcome = Outcome(
            work.item.label, work.item.folder, state, node, work.attempts, seconds, size=size, failure=failure
        )
        self.outcomes[work.item.key] = outcome
        self.events.ended(outcome)

    def _look_at_nodes(self) -> None:
        """After a node came or went: what was on it begins again, and what no node can hold any more does not wait.

        Where only the network of a node is gone, Ray waits for the answers of its tasks for many minutes more.
        """
        # Ray goes on listing a lost node for some seconds.
        present = tuple(node for node in nodes(self.ray) if node.id not in self.lost)
        if {node.id for node in present} == {node.id for node in self.nodes}:
            return
        gone = [self.known[node.id] for node in self.nodes if node.id not in {other.id for other in present}]
        self.nodes = present
        self.known |= {node.id: node.name for node in present if node.id not in self.known}
        self.events.nodes([node.name for node in present], gone)
        here = {node.id for node in present}
        for ref, work in list(self.pending.items()):
            if work.node and work.node not in here and self.pending.pop(ref, None) is not None:
                self._failed(work, lost(NODE_DIED, self.known.get(work.node, work.node)))
        if gone:
            self._queue_again()
        for ref, work in list(self.pending.items()):
            wanted = {"CPU": 1.0} if work.needs is None else self._wanted(work.needs)
            if not work.node and not any(node.has(wanted) for node in present):
                with suppress(Exception):  # it may just have begun
                    self.ray.cancel(ref)
                del self.pending[ref]
                self._fail(work, too_large(wanted, present))

    def _queue_again(self) -> None:
        """What has not begun may be in the queue of a node that is gone, and nobody says so."""
        self._hear()
        for ref, work in list(self.pending.items()):
            if not work.node and self.pending.pop(ref, None) is not None:
                with suppress(Exception):  # as above
                    self.ray.cancel(ref)
                if work.needs is None:
                    self._plan(work)
                else:
                    self._build(work)
