"""Farms on a cluster of three nodes on this machine. For each number on stdin, the share of an undisturbed farm's time
after which a node is killed, one farm runs, and a line of JSON says what became of it.

usage: python -m tests.support.campaign.farm_nodes RECIPE.toml
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from pathlib import Path

from quantkit.cluster.connection import nodes
from quantkit.farm.recipes import read_recipes
from quantkit.farm.run import farm
from tests.support.ray_cluster import Cluster


def main(recipe: Path) -> None:
    """Answer until stdin ends."""
    cluster = Cluster()
    try:
        wanted = read_recipes([recipe])
        began = time.monotonic()
        farm(wanted, verify=False)
        seconds = time.monotonic() - began
        for line in sys.stdin:
            killed: list[str] = []

            def kill(killed: list[str] = killed) -> None:
                names = [node.name for node in nodes(cluster.ray) if cluster.can_kill(node.name)]
                if names:
                    cluster.kill(names[-1])
                    killed.append(names[-1])

            for one in wanted:
                shutil.rmtree(one.recipe.folder, ignore_errors=True)
            timer = threading.Timer(float(line) * seconds, kill)
            timer.start()
            outcomes = farm(wanted, verify=False)
            timer.join()
            failures = [outcome.to_json() for outcome in outcomes if outcome.failure is not None]
            print(json.dumps({"killed": "".join(killed), "failures": failures}), flush=True)
            if killed:
                cluster.add(cards=0)
    finally:
        cluster.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
