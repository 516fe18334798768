"""The process that computes parts of an importance matrix for others: it loads libllama, and never torch.

The first question opens a model. Then chunks are computed: added to sums that the question has, or kept until a later
one brings the sums of what comes before them.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import quantkit.ggml.llama  # noqa: F401  (before numpy)
from quantkit.calibrate.chunks import Chunks
from quantkit.calibrate.collector import Collector
from quantkit.calibrate.held import Held
from quantkit.calibrate.session import open_session
from quantkit.calibrate.sums_file import read_sums_file, write_sums_file
from quantkit.ggml.llama import begin, computing
from quantkit.system.child_process import answer_module
from quantkit.system.processors import usable_processors


class GroupWorker:
    """A loaded model, and the groups that wait."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._held: dict[int, Held] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """``open`` a model, compute the ``group`` that begins with a chunk, or ``add`` one that was computed."""
        if "open" in question:
            return self._open(question["open"])
        return self._group(question) if "group" in question else self._add(question)

    def _open(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._chunks = Chunks(asked["ids"], asked["context"], asked["count"])
        self._threads = asked["threads"] or usable_processors()
        self._collector = Collector()
        session = open_session(
            Path(asked["gguf"]),
            self._chunks,
            self._collector,
            threads=asked["threads"],
            n_gpu_layers=asked["n_gpu_layers"],
            stopped=lambda: False,
        )
        self._session = self._stack.enter_context(session)
        self._session.check(self._chunks)
        told = {"offloaded": self._session.offloaded, "trained": self._session.model.trained_context}
        return {**told, "kind": computing()}

    def _group(self, asked: dict[str, Any]) -> dict[str, Any]:
        first, collector = asked["group"], self._collector
        collector.error = None
        if asked["sums"] is None:
            collector.held = self._held[first] = Held()
        else:
            collector.held, collector.sums = None, read_sums_file(Path(asked["sums"]))
        self._session.evaluate(self._chunks, first)
        if collector.error is not None:
            raise collector.error
        if collector.held is not None:
            return {"added": False}
        write_sums_file(Path(asked["out"]), collector.sums)
        collector.sums = {}
        return {"added": True}

    def _add(self, asked: dict[str, Any]) -> dict[str, Any]:
        held, sums = self._held.pop(asked["add"]), read_sums_file(Path(asked["sums"]))
        try:
            held.add(sums, self._threads)
        finally:
            held.close()
        write_sums_file(Path(asked["out"]), sums)
        return {"added": True}

    def close(self) -> None:
        """Free the model."""
        self._stack.close()


if __name__ == "__main__":
    begin()
    worker = GroupWorker()
    try:
        answer_module(worker.answer)
    finally:
        worker.close()
