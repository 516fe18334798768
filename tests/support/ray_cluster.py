"""Farms and spread builds on a real Ray cluster of three nodes on this machine, one of which is killed in the middle.

usage: python -m tests.support.ray_cluster FOLDER

FOLDER has ``matrix.toml``, ``slow.toml`` and ``wrong.toml``. Prints one JSON object. A process of its own, because Ray
starts threads and changes handlers, and one for all cases, because a cluster takes seconds to start.
The build in slow.toml is larger than the disk of the node that cannot be killed.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantkit.cluster.connection import DISK, import_ray, nodes
from quantkit.farm.events import Both, Events, Log
from quantkit.farm.recipes import read_recipes
from quantkit.farm.run import farm
from quantkit.farm.values import Item

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

    def kill(self, name: str) -> None:
        """Kill a node, without a word to its workers."""
        (id,) = (node.id for node in nodes(self.ray) if node.name == name)
        (raylet,) = (node for node in self._others if node.node_id == id)
        self._cluster.remove_node(raylet, allow_graceful=False)
        self._others.remove(raylet)

    def close(self) -> None:
        self.ray.shutdown()
        self._cluster.shutdown()


def main(folder: Path) -> dict[str, Any]:
    cluster = Cluster()
    try:
        return {"farm": _farm(cluster, folder)}
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


def _json(outcomes: Sequence[Any]) -> list[dict[str, Any]]:
    return [outcome.to_json() for outcome in outcomes]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
