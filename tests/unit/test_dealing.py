"""Shares are dealt, and dealt again when a node is lost, whatever the order in which nodes answer and are lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import pytest

from quantkit.calibrate.chunks import Chunks
from quantkit.calibrate.spread import _Run
from quantkit.calibrate.spread_node import Group
from quantkit.cluster.connection import Node
from quantkit.cluster.dealing import Dealing, Opened, Worker
from quantkit.errors import QuantkitError
from quantkit.evaluate.spread_node import Share
from quantkit.system.progress import Reporter

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'quantkit-gguf[ray]'")


class Actor:
    """A node's actor: its methods, each of which is called as ``method.remote(...)``, answer when a test lets them."""

    def __init__(self, ray: FakeRay, name: str) -> None:
        self.ray, self.name, self.held = ray, name, set[int]()

    def __getattr__(self, method: str) -> Any:
        ray, actor = self.ray, self

        class Method:
            @staticmethod
            def remote(*arguments: Any) -> int:
                ray.calls[ray.count] = actor, method, arguments
                ray.count += 1
                return ray.count - 1

        return Method

    def do(self, method: str, group: Group, sums: list[int] | None) -> list[int] | None:
        """What a node of a matrix answers; a sum is the list of the groups that were added."""
        if method == "compute" and sums is None:
            self.held.add(group.number)
            return None
        assert sums is not None
        if method == "add":
            self.held.remove(group.number)
        return [*sums, group.number]


class FakeRay:
    """Answers calls one after the other on each actor, and loses nodes, in an order of chance."""

    def __init__(self, seed: int, losses: float) -> None:
        self.random, self.losses, self.count = random.Random(seed), losses, 0
        self.calls: dict[int, tuple[Actor, str, Any]] = {}
        self.dead: set[str] = set()
        self.killed: list[str] = []
        self.alive = 0

    def wait(self, refs: Sequence[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        first: dict[str, int] = {}
        for ref in sorted(refs):
            first.setdefault(self.calls[ref][0].name, ref)
        chosen = self.random.choice(sorted(first.values()))
        name = self.calls[chosen][0].name
        if self.alive > 1 and self.random.random() < self.losses:
            self.dead.add(name)
            self.alive -= 1
        return [chosen], []

    def get(self, ref: int) -> Any:
        from ray.exceptions import ActorDiedError

        actor, method, arguments = self.calls[ref]
        if actor.name in self.dead:
            raise ActorDiedError
        answer = arguments[0] if method in ("opened", "said") else actor.do(method, *arguments)
        if isinstance(answer, BaseException) and not isinstance(answer, QuantkitError):
            raise answer
        return answer

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.name)

    def get_runtime_context(self) -> Any:
        class Context:
            @staticmethod
            def get_node_id() -> str:
                return "node-0"

        return Context


def dealing(
    ray: FakeRay, opened: Sequence[Any], *, alike: bool = False, heard: Callable[..., None] = lambda *said: None
) -> tuple[Dealing, Reporter]:
    """Nodes that open with what is given."""
    reporter = Reporter()
    made = Dealing(ray, reporter, alike=alike, heard=heard)
    ray.alive = len(opened)
    for number, answer in enumerate(opened):
        name = f"node-{number}"
        worker = Worker(Node(name, name, {"CPU": 1.0}), Actor(ray, name))
        made.workers.append(worker)
        made.put(worker, None, worker.actor.opened.remote(answer))
    return made, reporter


@pytest.mark.parametrize("losses", [0.0, 0.15, 0.6])
def test_sums_are_in_order_whoever_is_lost(losses: float) -> None:
    lost = kept = 0
    for seed in range(150):
        chunks, ray = Chunks((), 512, 4 * 13 + 1), FakeRay(seed, losses)
        heard: list[tuple[str, str]] = []
        nodes, _ = dealing(ray, [Opened()] * 4, heard=lambda what, node, share, heard=heard: heard.append((what, node)))
        told: list[dict[str, int]] = []
        run = _Run(nodes, chunks, told.append, lambda run: None, 1e9, 8, [0, 4])  # type: ignore[arg-type]
        groups = [Group(first) for first in range(8, chunks.count, chunks.together)]
        nodes.run(groups, run.ask, run.answered, run.takes)
        assert run.sums == list(range(0, 53, 4))
        assert [said["chunks"] for said in told] == [*range(12, 53, 4), 53]
        lost += len(ray.dead)
        kept += any(method == "add" for _, method, _ in ray.calls.values())
        assert sum(what == "done" for what, _ in heard) == len(groups)
        dealt = sum(what == "dealt" for what, _ in heard)
        assert dealt - len(groups) <= 2 * len(
            ray.dead
        )  # what a node has: a group that waits, and one that all wait for
    assert kept > 30
    assert (lost > 20) == (losses > 0)


def test_every_share_is_answered_once_whoever_is_lost() -> None:
    for seed in range(100):
        ray, answers = FakeRay(seed, 0.2), list[int]()

        def answered(worker: Worker, share: Share, answer: int, answers: list[int] = answers) -> bool:
            answers.append(answer)
            return True

        nodes, _ = dealing(ray, [Opened()] * 3)
        for start in (0, 100):  # a second round goes on with the nodes that are left
            shares = [Share(number) for number in range(start, start + 12)]
            nodes.run(shares, lambda worker, share: worker.actor.said.remote(share.number), answered)
        assert sorted(answers) == [*range(12), *range(100, 112)]


def test_when_all_nodes_are_lost_that_is_said() -> None:
    ray = FakeRay(0, 0.0)
    nodes, _ = dealing(ray, [Opened()] * 2)
    ray.dead = {"node-0", "node-1"}
    with pytest.raises(QuantkitError, match=r"every node was lost before the work was done \(the last one: ActorDied"):
        nodes.run([Share(0)], lambda worker, share: None, lambda *said: True)


def test_an_error_names_its_node_and_leaves_the_others_ready() -> None:
    from ray.exceptions import RayTaskError

    ray = FakeRay(1, 0.0)
    nodes, _ = dealing(ray, [Opened()] * 2)
    task = RayTaskError("f", "Traceback\nModuleNotFoundError: x", ModuleNotFoundError("no module named x"))
    for error, said in ((QuantkitError("wrong", hint="mend it"), "wrong"), (task, "no module named x")):
        with pytest.raises(QuantkitError, match=rf"node node-[01]: {said}") as caught:
            nodes.run(
                [Share(0)], lambda worker, share, error=error: worker.actor.said.remote(error), lambda *said: True
            )
        assert caught.value.hint
    done: list[int] = []
    nodes.run(
        [Share(number) for number in range(5)],
        lambda worker, share: worker.actor.said.remote(share.number),
        lambda worker, share, answer: not done.append(answer),
    )
    assert sorted(done) == [*range(5)]


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [("abb", "b"), ("aabb", "a"), ("bbaa", "b"), ("aba", "a"), ("a", "a")],  # node-0's own, where two are as many
)
def test_only_nodes_that_compute_alike_get_shares(kinds: str, kept: str) -> None:
    for seed in range(10):
        ray, took = FakeRay(seed, 0.0), set[str]()
        nodes, reporter = dealing(ray, [Opened(kind) for kind in kinds], alike=True)
        assert nodes.kind() == kept

        def answered(worker: Worker, share: Share, answer: int, took: set[str] = took) -> bool:
            took.add(worker.node.name)
            return True

        shares = [Share(number) for number in range(30)]
        nodes.run(shares, lambda worker, share: worker.actor.said.remote(0), answered)
        others = [f"node-{number}" for number, kind in enumerate(kinds) if kind != kept]
        assert took == {f"node-{number}" for number, kind in enumerate(kinds) if kind == kept}
        assert sorted(ray.killed) == others
        assert [note.split()[1] for note in sorted(reporter.notes)] == others
