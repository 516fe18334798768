"""Work that is divided over the nodes of a cluster: shares are dealt, and those of a lost node are dealt again.

An actor on each node does the work, as the only one on its processors. Its answers are values: an error that a user can
act on is one of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol, TypeVar

from quantkit.cluster.connection import Node, nodes
from quantkit.errors import QuantkitError
from quantkit.system.progress import Reporter

SHARES = 8
"""Shares for each node: enough that all end at about the same time, and that a lost node costs little."""

# Shares that a node has at a time, so that it never waits for the next.
_AHEAD = 2
# Seconds without a node before that is said, and those that nodes have to be compared after the first has opened.
_SAID_AFTER, _PATIENCE = 20.0, 60.0


class Numbered(Protocol):
    """A share: those with small numbers are dealt first."""

    @property
    def number(self) -> int: ...


S = TypeVar("S", bound=Numbered)
Heard = Callable[[str, str, Any], None]
"""Called with what happened (``dealt``, ``done``, ``lost``), the node's name, and the share, None of a lost node."""


def nothing_heard(what: str, node: str, share: Any) -> None:
    """For those whom nobody listens to."""


@dataclass(frozen=True)
class Opened:
    """What an actor answers that is ready.

    Attributes:
        kind: what the bits of its results depend on, see :func:`quantkit.cluster.kind.node_kind`.
        facts: whatever else it tells.
    """

    kind: str = ""
    facts: Any = None


@dataclass(eq=False)
class Worker:
    """A node at work.

    Attributes:
        node: which.
        actor: Ray's handle.
        open: whether it takes shares.
        kind, facts: as it said when it had opened.
        given: the shares that it has.
    """

    node: Node
    actor: Any
    open: bool = False
    kind: str = ""
    facts: Any = None
    given: list[Any] = field(default_factory=list)


def fitting_nodes(ray: Any, *, cards: bool) -> list[Node]:
    """The nodes with a processor, or with a graphics card.

    Raises:
        QuantkitError: there is none.
    """
    present = [node for node in nodes(ray) if node.resources.get("GPU" if cards else "CPU", 0) >= 1]
    if not present:
        raise QuantkitError(
            "no node of the cluster has a " + ("graphics card" if cards else "processor") + " for this work",
            hint="pass --device cpu, or add such a node" if cards else "add a node that has one",
        )
    return present


class Dealing:
    """The nodes, and the shares that they have.

    Attributes:
        ray: its module, connected.
        workers: the nodes that are left.
        heard: told of the shares.
    """

    def __init__(self, ray: Any, reporter: Reporter, *, alike: bool, heard: Heard = nothing_heard) -> None:
        """Begin without nodes.

        Args:
            ray: its module, connected.
            reporter: gets a note when work waits for its nodes, or leaves one out.
            alike: take only nodes of one kind, the most frequent: another processor gives other last digits.
            heard: told of the shares.
        """
        self.ray, self.heard, self.workers = ray, heard, list[Worker]()
        self._reporter, self._alike = reporter, alike
        self._kind: str | None = None
        self._refs: dict[Any, tuple[Worker, Any]] = {}
        self._waiting: deque[Any] = deque()
        self._begun, self._first_open, self._said = monotonic(), 0.0, False
        self._why = ""

    def hire(
        self, present: Sequence[Node], actor: type, opened: Callable[[Any, Node, int], Any], *, cards: bool
    ) -> None:
        """Start an actor on each node, which gets the whole node.

        Args:
            present: the nodes.
            actor: its class.
            opened: calls what opens an actor, given its processors; the answer is :class:`Opened` or an error.
            cards: whether it gets the graphics cards, too.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for node in present:
            processors = int(node.resources.get("CPU", 1))
            here = NodeAffinitySchedulingStrategy(node.id, soft=False)
            held = {"num_cpus": processors, "num_gpus": int(node.resources.get("GPU", 0)) if cards else 0}
            made = self.ray.remote(actor).options(**held, scheduling_strategy=here, max_restarts=0).remote()
            worker = Worker(node, made)
            self.workers.append(worker)
            self._refs[opened(made, node, processors)] = worker, None

    def kind(self) -> str:
        """The kind of the nodes that compute; waits until they are open. Only of those that are to be alike.

        Raises:
            QuantkitError: no node is left, or the first error of a node.
        """
        assert self._alike
        while self._kind is None:
            for ref in self._ready():
                self._hear(ref, lambda worker, share, answer: False)
            self._choose()
        return self._kind

    def run(
        self,
        shares: Sequence[S],
        ask: Callable[[Worker, S], Any],
        answered: Callable[[Worker, S, Any], bool],
        takes: Callable[[Worker, S], bool] = lambda worker, share: len(worker.given) < _AHEAD,
    ) -> None:
        """Until every share is done.

        Args:
            shares: what is to be done.
            ask: gives a share to a node; Ray's reference of the answer.
            answered: what to do with an answer; false if the node keeps the share until :meth:`finish`.
            takes: whether a node gets one more.

        Raises:
            QuantkitError: no node is left, or the first error of a node.
        """
        self._waiting = deque(shares)
        try:
            self._deal(ask, takes)
            while self._waiting or any(worker.given for worker in self.workers):
                for ref in self._ready():
                    if ref in self._refs:  # not of a node that has just been lost
                        self._hear(ref, answered)
                self._choose()
                self._deal(ask, takes)
        finally:
            for worker in self.workers:
                worker.given.clear()
            self._refs = {ref: (worker, share) for ref, (worker, share) in self._refs.items() if share is None}

    def put(self, worker: Worker, share: S, ref: Any) -> None:
        """One more answer that a share waits for."""
        self._refs[ref] = worker, share

    def finish(self, worker: Worker, share: S) -> None:
        """A share is done."""
        worker.given.remove(share)
        self.heard("done", worker.node.name, share)

    def close(self) -> None:
        """End the actors; none of them writes any more."""
        for worker in self.workers:
            self.ray.kill(worker.actor)

    def _ready(self) -> list[Any]:
        if not self._refs:
            raise QuantkitError(
                f"every node was lost before the work was done{self._why}",
                hint="look at the cluster, and run the same again",
            )
        if not self._said and not self._first_open and monotonic() - self._begun > _SAID_AFTER:
            self._said = True
            self._reporter.note("no node is free: this waits until other work on the cluster has ended")
        ready: list[Any] = self.ray.wait(list(self._refs), num_returns=1, timeout=1.0)[0]
        return ready

    def _hear(self, ref: Any, answered: Callable[[Worker, Any, Any], bool]) -> None:
        from ray.exceptions import RayError, RayTaskError

        worker, share = self._refs[ref]
        try:
            answer = self.ray.get(ref)
        except RayTaskError as error:  # not a lost node: it would happen on every one
            why = str(error.cause or error).strip().splitlines()[-1]
            raise QuantkitError(
                f"node {worker.node.name}: {why}", hint="install the same version of quantkit on every node"
            ) from None
        except RayError as error:
            self._why = f" (the last one: {type(error).__name__})"
            self._lost(worker)
            return
        del self._refs[ref]
        if isinstance(answer, QuantkitError):
            raise type(answer)(f"node {worker.node.name}: {answer}", hint=answer.hint)
        if share is None:
            worker.open, worker.kind, worker.facts = True, answer.kind, answer.facts
            self._first_open = self._first_open or monotonic()
        elif answered(worker, share, answer):
            self.finish(worker, share)

    def _choose(self) -> None:
        """Which kind of nodes computes, and leave the others out."""
        opened = [worker for worker in self.workers if worker.open]
        if not self._alike or not opened:
            return
        if self._kind is None:
            late = monotonic() - self._first_open > _PATIENCE
            if len(opened) < len(self.workers) and not late:
                return
            here = self.ray.get_runtime_context().get_node_id()
            kinds = Counter(worker.kind for worker in opened)
            of_here = next((worker.kind for worker in opened if worker.node.id == here), "")
            self._kind = max(sorted(kinds), key=lambda kind: (kinds[kind], kind == of_here))
        for worker in opened:
            if worker.kind != self._kind:
                self._remove(worker)
                self.ray.kill(worker.actor)
                self._reporter.note(
                    f"node {worker.node.name} is left out: its processor, cards or llama.cpp are others than those of "
                    "the other nodes, so its last digits would differ"
                )

    def _deal(self, ask: Callable[[Worker, Any], Any], takes: Callable[[Worker, Any], bool]) -> None:
        """Give every node that is ready the next shares."""
        if self._alike and self._kind is None:
            return
        for worker in self.workers:
            while worker.open and self._waiting and takes(worker, self._waiting[0]):
                share = self._waiting.popleft()
                worker.given.append(share)
                self._refs[ask(worker, share)] = worker, share
                self.heard("dealt", worker.node.name, share)

    def _lost(self, worker: Worker) -> None:
        """Its shares are the next that are dealt, to the others."""
        self._remove(worker)
        self.heard("lost", worker.node.name, None)

    def _remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self._refs = {ref: held for ref, held in self._refs.items() if held[0] is not worker}
        self._waiting = deque(sorted([*worker.given, *self._waiting], key=lambda share: share.number))
        worker.given.clear()
