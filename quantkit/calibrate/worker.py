"""The process that computes an importance matrix, from inside: it loads libllama, and never torch.

It tells how many chunks are done, and when it has left an unfinished matrix in the file ``out`` that may be renamed.
Ctrl-C ends it after the operation that is running: what the chunks before it gave is written.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import quantkit.ggml.llama  # noqa: F401  (before numpy)
from quantkit.calibrate.chunks import Chunks
from quantkit.calibrate.collector import Collector
from quantkit.calibrate.imatrix_file import Progress, read_sums, write_imatrix
from quantkit.calibrate.session import open_session
from quantkit.ggml.llama import begin
from quantkit.system.child_process import answer_module, tell

_stopped = False


def _stop(signum: int, frame: FrameType | None) -> None:
    global _stopped
    _stopped = True


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Write the matrix to the file ``out``, and say how far it is."""
    gguf, out = Path(question["gguf"]), Path(question["out"])
    before = Progress(**question["progress"])
    chunks = Chunks(question["ids"], before.context, before.chunks)
    collector = Collector(read_sums(Path(question["begun"])) if question["begun"] else None)
    done, saved = before.done, time.monotonic()

    def write() -> None:
        progress = None if done == chunks.count else Progress(**{**question["progress"], "done": done})
        write_imatrix(out, collector.sums, question["data"], chunks.context, progress)

    with open_session(
        gguf,
        chunks,
        collector,
        threads=question["threads"],
        n_gpu_layers=question["n_gpu_layers"],
        stopped=lambda: _stopped,
    ) as session:
        tell({"offloaded": session.offloaded, "trained": session.model.trained_context})
        session.check(chunks)
        while done < chunks.count and not _stopped:
            kept = collector.snapshot()
            whole = session.evaluate(chunks, done)
            if collector.error is not None:
                raise collector.error
            if not whole or _stopped:
                collector.sums = kept
                break
            done = chunks.after(done)
            tell({"chunks": done})
            if done < chunks.count and time.monotonic() - saved > question["save_seconds"]:
                write()
                tell({"saved": done})
                saved = time.monotonic()
    if done:
        write()
    return {"chunks": done}


if __name__ == "__main__":
    begin()
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, _stop)
    answer_module(answer)
