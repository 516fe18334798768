"""Farms, and work that is divided, on a real Ray cluster of nodes on this machine that are killed in the middle.

usage: python -m tests.support.ray_cluster FOLDER

FOLDER has ``matrix.toml``, ``slow.toml``, ``wrong.toml`` and ``spread.toml``; the build in slow.toml is larger than the
disk of the node that cannot be killed. It also has ``model.gguf``, whose matrix is written as ``imatrix.gguf``, and
``model-q4_0.gguf``, which is compared with it. Prints one JSON object. A process of its own, because Ray starts threads
and changes handlers, and one for all cases, because a cluster takes seconds to start.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from quantkit.calibrate import spread as calibrate_spread
from quantkit.calibrate.imatrix_file import read_progress
from quantkit.cluster.connection import DISK, import_ray, nodes
from quantkit.cluster.dealing import Dealing
from quantkit.evaluate.evaluate_files import evaluate_files
from quantkit.evaluate.evaluation import Asked, Evaluation, Settings
from quantkit.evaluate.files import EvaluatedFile
from quantkit.evaluate.process import Runners
from quantkit.evaluate.spread import spread_runners
from quantkit.farm import run as farm_run
from quantkit.farm.events import Both, Events, Log
from quantkit.farm.recipes import read_recipes
from quantkit.farm.run import farm
from quantkit.farm.values import Answer, Item, Needs, Outcome, Wanted
from quantkit.jobs import spread
from quantkit.jobs.build import build
from quantkit.jobs.evaluate import evaluation_text
from quantkit.jobs.imatrix import imatrix
from quantkit.jobs.recipe import Recipe
from quantkit.system.progress import Reporter

CHUNKS = 12
MATRIX: dict[str, Any] = {"context": 256, "chunks": 8 * 7 + 1, "n_gpu_layers": 0, "threads": 1}
"""Eight groups of chunks, the last one smaller."""
INTERRUPTED = 8 * 4
"""The group after which Ctrl-C comes."""
_STORE = 80_000_000


def _node(disk: int, cards: int = 0) -> dict[str, Any]:
    """Of a node; Ray believes what it says of its cards. Each card has a processor."""
    return {"num_cpus": max(1, cards), "num_gpus": cards, "object_store_memory": _STORE, "resources": {DISK: disk}}


class Killer(Events):
    """Kills the node on which a build begins, before it can end there."""

    def __init__(self, cluster: Cluster, label: str) -> None:
        self.cluster, self.label, self.killed = cluster, label, ""

    def begun(self, item: Item, node: str, attempt: int) -> None:
        if item.label == self.label and not self.killed:
            self.killed = node
            self.cluster.kill(node)


class BoardKiller(Events):
    """Kills the process of the board when the first build has ended."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.killed = cluster, False

    def ended(self, outcome: Outcome) -> None:
        if not self.killed:
            self.killed = self.cluster.kill_board()


class Listener:
    """Hears of shares, and strikes the node of the first event of a kind, if it is not the node of this process."""

    def __init__(
        self, cluster: Cluster, event: str, strike: Callable[[str], None], shown: Callable[[Any], Any]
    ) -> None:
        self.cluster, self.event, self.strike, self.shown = cluster, event, strike, shown
        self.heard: list[tuple[str, str, Any]] = []

    def __call__(self, what: str, node: str, share: Any) -> None:
        first = what == self.event and all(other != "killed" for other, *_ in self.heard)
        self.heard.append((what, node, None if share is None else self.shown(share)))
        if first and self.cluster.can_kill(node):
            self.heard.append(("killed", node, None))
            self.strike(node)


class Together(Dealing):
    """Deals nothing before all nodes are open, so that each gets shares, however slow this machine is."""

    def _deal(self, *how: Any) -> None:
        if all(worker.open for worker in self.workers):
            super()._deal(*how)


@contextlib.contextmanager
def replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Give a module another value, for the time of the block."""
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


class Cluster:
    """Three nodes with a processor each. The first is that of this process: it is never killed, and has little disk."""

    def __init__(self) -> None:
        ray = import_ray()
        from ray.cluster_utils import Cluster as RayCluster

        self.ray = ray
        self._cluster = RayCluster()
        self._cluster.add_node(**_node(4_000_000), include_dashboard=False)
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
        self._others = [self._cluster.add_node(**_node(10**12)) for _ in range(2)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def kill(self, name: str) -> None:
        """Kill a node with all its workers, as if it lost its power."""
        lost = self._node(name)
        for worker in children(self._raylet(name)):
            os.kill(worker, signal.SIGKILL)
        self._cluster.remove_node(lost, allow_graceful=False)
        self._others.remove(lost)

    def kill_actor(self, name: str) -> None:
        """Kill the process of an imatrix's actor on a node, which goes on."""
        self._kill_workers(self._raylet(name), b"ray::ImatrixNode")

    def kill_board(self) -> bool:
        """Kill the board of a farm, which is on the first node; whether it was there."""
        first = int(self._cluster.head_node.all_processes["raylet"][0].process.pid)
        return self._kill_workers(first, b"ray::Board")

    def _kill_workers(self, raylet: int, title: bytes) -> bool:
        found = [pid for pid in children(raylet) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title)]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return bool(found)

    def _raylet(self, name: str) -> int:
        return int(self._node(name).all_processes["raylet"][0].process.pid)

    def _node(self, name: str) -> Any:
        (id,) = (node.id for node in nodes(self.ray) if node.name == name)
        (found,) = (node for node in self._others if node.node_id == id)
        return found

    def can_kill(self, name: str) -> bool:
        """Whether it is not the node of this process."""
        return any(node.name == name for node in nodes(self.ray) if node.id in {one.node_id for one in self._others})

    def add(self, cards: int) -> None:
        """One more node with so many cards, when Ray no longer lists those that were killed."""
        self.settle()
        self._others.append(self._cluster.add_node(**_node(10**12, cards)))

    def settle(self) -> None:
        """Wait until Ray no longer lists the nodes that were killed: it may take seconds."""
        while len(nodes(self.ray)) > 1 + len(self._others):
            time.sleep(0.1)

    def close(self) -> None:
        self.ray.shutdown()
        self._cluster.shutdown()


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are running."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def main(folder: Path) -> dict[str, Any]:
    cluster = Cluster()
    try:
        farmed = _farm(cluster, folder)
        cluster.add(cards=2)
        cards = _cards(folder)
        built = _spread(cluster, folder)
        matrix = _imatrix(cluster, folder)
        evaluated = _evaluate(cluster, folder)
        return {"farm": farmed, "cards": cards, "spread": built, "imatrix": matrix, "evaluate": evaluated}
    finally:
        cluster.close()


def _farm(cluster: Cluster, folder: Path) -> dict[str, Any]:
    recipes = [folder / name for name in ("slow.toml", "matrix.toml", "wrong.toml")]
    wanted = read_recipes(recipes)
    killer = Killer(cluster, "slow")
    with Log(folder / "log.jsonl") as log:
        first = farm(wanted, verify=False, events=Both(log, killer))
    board = BoardKiller(cluster)
    with Log(folder / "again.jsonl") as log:
        second = farm(wanted, verify=False, events=Both(log, board))
    return {"killed": killer.killed, "board": board.killed, "first": _json(first), "second": _json(second)}


def _cards(folder: Path) -> list[dict[str, Any]]:
    """What three builds on cards see of a node with two: they begin when Ray lets them, and build nothing."""

    def plan(item: Item, board: Any) -> Answer:
        return Answer(needs=Needs(item.threads, 10**6, cards=int(item.device == "cuda"), disk=1))

    def run(item: Item, board: Any, again: bool) -> Answer:
        import ray

        begun = time.monotonic()
        (folder / f"begun-{item.key}").touch()
        while len([*folder.glob("begun-*")]) < 2:  # two at a time, or this never ends
            time.sleep(0.05)
        told = {
            "device": item.device,
            "threads": item.threads,
            "cards": os.environ["CUDA_VISIBLE_DEVICES"],
            "node": ray.get_runtime_context().get_node_id(),
            "memory": ray.get_runtime_context().get_assigned_resources()["memory"],
            "span": [begun, time.monotonic()],
        }
        (folder / f"card-{item.key}.json").write_text(json.dumps(told))
        return Answer(size=1)

    wanted = [Wanted(str(key), Recipe(folder, out=folder / f"on-card-{key}")) for key in range(3)]
    with replaced(farm_run, "there", SimpleNamespace(plan=plan, run=run)):
        outcomes = farm(wanted)
    assert [outcome.state for outcome in outcomes] == ["built"] * 3
    return [json.loads((folder / f"card-{key}.json").read_text()) for key in range(3)]


def _spread(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """A build over three nodes, of which one is killed when its first share is done."""
    (wanted,) = read_recipes([folder / "spread.toml"])
    listener = Listener(cluster, "done", cluster.kill, lambda share: [*share.names])
    with (
        replaced(spread, "spread_stream", partial(spread.spread_stream, heard=listener)),
        replaced(spread, "Dealing", Together),
    ):
        build(wanted.recipe, verify=False, device="cpu", ray=cluster.address)
    return {"heard": listener.heard}


def _imatrix(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """A matrix over two nodes; one loses its process when it has a group to compute. Interrupted, and continued."""
    cluster.settle()
    listener = Listener(cluster, "dealt", cluster.kill_actor, lambda group: group.number)

    def listen(what: str, node: str, share: Any) -> None:
        listener(what, node, share)
        if what == "done" and share.number == INTERRUPTED:
            raise KeyboardInterrupt

    out = folder / "imatrix.gguf"
    with replaced(calibrate_spread, "compute_spread", partial(calibrate_spread.compute_spread, heard=listen)):
        with contextlib.suppress(KeyboardInterrupt):
            imatrix(folder / "model.gguf", out, ray=cluster.address, **MATRIX)
        left = read_progress(out)
        imatrix(folder / "model.gguf", out, ray=cluster.address, **MATRIX)
    return {"heard": listener.heard, "left": left and left.done}


def _evaluate(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """An evaluation over the same nodes, of which one is killed when its first chunks are done."""
    listener = Listener(cluster, "done", cluster.kill, lambda share: share.number)
    runners = spread_runners(cluster.address, folder, Reporter(), n_gpu_layers=0, threads=1, heard=listener)
    with runners as made:
        return {"evaluation": evaluation_of(folder, made).to_json(), "heard": listener.heard}


def evaluation_of(folder: Path, runners: Runners | None = None) -> Evaluation:
    """The evaluation of the model's quantized file with a question, without what differs each time: its speed."""
    text = evaluation_text(folder / "model.gguf", None, 64, CHUNKS, Reporter())
    reference, file = (EvaluatedFile(folder / name, "", name) for name in ("model.gguf", "model-q4_0.gguf"))
    talk = ({"role": "user", "content": "Hello!"},)
    return evaluate_files(
        reference,
        [file],
        text,
        asked=Asked(("Hello!",), (talk,), (), 8),
        settings=Settings(0, 1, speed=False, tensors=False, home=folder / f"logits-{runners is None}"),
        runners=runners,
    )


def _json(outcomes: Sequence[Any]) -> list[dict[str, Any]]:
    return [outcome.to_json() for outcome in outcomes]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
