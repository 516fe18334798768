"""``local_folder`` or ``local_matrix`` in a process of its own: huggingface_hub reads its environment on import.

Run as ``python -m tests.support.hub_client SOURCE KIND``; prints a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.hub import huggingface
from quantkit.hub.fetch import local_folder
from quantkit.hub.matrix import local_matrix, parse_matrix
from quantkit.hub.source import parse_source
from quantkit.system.progress import Reporter

REPOSITORY = Path(__file__).parents[2]


def hub_environment(endpoint: str, home: Path, **extra: str) -> dict[str, str]:
    """The environment of a process that uses the hub at *endpoint*, with its cache under *home*."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return {
        **inherited,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(REPOSITORY),
        **extra,
    }


class Recorder(Reporter):
    """Keeps what it is told of the progress."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[dict[str, Any]] = []

    @contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        record = {"name": name, "total": total, "unit": unit, "done": 0}
        self.phases.append(record)

        def advance(amount: int) -> None:
            record["done"] += amount

        yield advance


def main(source: str, kind: Any) -> None:
    recorder = Recorder()
    huggingface.PATIENCE = replace(huggingface.PATIENCE, sleep=lambda seconds: None)  # tests/unit/test_hub_transfer.py
    try:
        if kind == "matrix":
            found = {"file": str(local_matrix(parse_matrix(source), recorder))}
        else:
            found = {"folder": str(local_folder(parse_source(source), kind, recorder))}
    except QuantkitError as error:
        found = {"error": str(error), "hint": error.hint, "kind": type(error).__name__}
    print(json.dumps({**found, "notes": recorder.notes, "phases": recorder.phases}))


if __name__ == "__main__":
    main(*sys.argv[1:])
