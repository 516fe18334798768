"""What is said of builds that no node can hold, and of those that a node did not answer for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from quantkit.cluster.connection import DISK, Node
from quantkit.errors import QuantkitError
from quantkit.farm.values import Failure
from quantkit.system.units import size

NODE_DIED = "NodeDiedError"
"""Ray's error where a node is gone."""


def too_large(wanted: Mapping[str, float], present: Sequence[Node]) -> Failure:
    """What no node has."""
    most = Counter[str]()
    for node in present:
        for key, value in node.resources.items():
            most[key] = max(most[key], value)  # type: ignore[assignment]  # whole numbers or not
    words = {"CPU": "processors", "GPU": "graphics cards", "memory": "of memory", DISK: "of disk"}
    lacking = [key for key, value in wanted.items() if most[key] < value] or [*wanted]
    parts = [
        f"{_shown(key, wanted[key])} {words[key]} (the most of one node: {_shown(key, most[key])})" for key in lacking
    ]
    hint = (
        "add a node that has them, or pass --device cpu" if "GPU" in lacking else "add such a node, or lower --threads"
    )
    return Failure(QuantkitError.__name__, f"no node can hold it: it needs {', '.join(parts)}", hint)


def _shown(key: str, value: float) -> str:
    return f"{value:g}" if key in ("CPU", "GPU") else size(value)


def lost(kind: str, node: str) -> Failure:
    """Of a task that did not answer, by the kind of Ray's error."""
    where = f"node {node}" if node else "its node"
    why = {
        NODE_DIED: "was lost",
        "OutOfMemoryError": "ran out of memory, and the build's process was ended",
    }.get(kind, f"lost the build's process ({kind})")
    return Failure(kind, f"{where} {why}", "look at the node, and run the same command again", elsewhere=True)
