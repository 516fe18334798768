"""Farms and spread builds on a real Ray cluster of three nodes on this machine, one of which is killed in the middle.

usage: python -m tests.support.ray_cluster FOLDER

FOLDER has ``matrix.toml``, ``slow.toml``, ``wrong.toml`` and ``spread.toml``; the build in slow.toml is larger than the
disk of the node that cannot be killed. Prints one JSON object. A process of its own, because Ray starts threads and
changes handlers, and one for all cases, because a cluster takes seconds to start.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from quantkit.cluster.connection import DISK, import_ray, nodes
from quantkit.farm.events import Both, Events, Log
from quantkit.farm.recipes import read_recipes
from quantkit.farm.run import farm
from quantkit.farm.values import Item
from quantkit.jobs import spread
from quantkit.jobs.build import build
from quantkit.jobs.spread_node import Share

_STORE = 80_000_000


def _node(disk: int) -> dict[str, Any]:
    return {"num_cpus": 1, "object_store_memory": _STORE, "resources": {DISK: disk}}


class Killer(Events):
    """Kills the node on which a build begins, before it can end there."""

    def __init__(self, cluster: Cluster, label: str) -> None:
        self.cluster, self.label, self.killed = cluster, label, ""

    def begun(self, item: Item, node: str, attempt: int) -> None:
        if item.label == self.label and not self.killed:
            self.killed = node
            self.cluster.kill(node)


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
        (id,) = (node.id for node in nodes(self.ray) if node.name == name)
        (lost,) = (node for node in self._others if node.node_id == id)
        raylet = lost.all_processes["raylet"][0].process.pid
        for worker in children(raylet):
            os.kill(worker, signal.SIGKILL)
        self._cluster.remove_node(lost, allow_graceful=False)
        self._others.remove(lost)

    def can_kill(self, name: str) -> bool:
        """Whether it is not the node of this process."""
        return any(node.name == name for node in nodes(self.ray) if node.id in {one.node_id for one in self._others})

    def add(self) -> None:
        """One more node."""
        self._others.append(self._cluster.add_node(**_node(10**12)))

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
        cluster.add()
        return {"farm": farmed, "spread": _spread(cluster, folder)}
    finally:
        cluster.close()


def _farm(cluster: Cluster, folder: Path) -> dict[str, Any]:
    recipes = [folder / name for name in ("slow.toml", "matrix.toml", "wrong.toml")]
    wanted = read_recipes(recipes)
    killer = Killer(cluster, "slow")
    with Log(folder / "log.jsonl") as log:
        first = farm(wanted, verify=False, events=Both(log, killer))
    with Log(folder / "again.jsonl") as log:
        second = farm(wanted, verify=False, events=log)
    return {"killed": killer.killed, "first": _json(first), "second": _json(second)}


def _spread(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """A build over three nodes, of which one is killed when its first share is done."""
    (wanted,) = read_recipes([folder / "spread.toml"])
    heard: list[tuple[str, str, list[str]]] = []

    def listen(what: str, node: str, share: Share | None) -> None:
        first = what == "done" and all(other != "killed" for other, *_ in heard) and cluster.can_kill(node)
        heard.append((what, node, [] if share is None else [*share.names]))
        if first:
            heard.append(("killed", node, []))
            cluster.kill(node)

    spread.spread_stream, kept = partial(spread.spread_stream, heard=listen), spread.spread_stream
    try:
        build(wanted.recipe, verify=False, device="cpu", ray=cluster.address)
    finally:
        spread.spread_stream = kept
    return {"heard": heard}


def _json(outcomes: Sequence[Any]) -> list[dict[str, Any]]:
    return [outcome.to_json() for outcome in outcomes]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
