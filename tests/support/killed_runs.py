"""Kills a merge again and again at random moments, each time continued by the next one.

Run as ``python -m tests.support.killed_runs MODEL ADAPTER WHOLE OUT KILLS SEED``; prints a JSON object. A process of
its own, because it forks: each run is a child that has its imports already, so that one takes a tenth of a second.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import quantkit.engine.ranges
from quantkit.files.output_file import OutputFile
from quantkit.jobs.merge import merge
from quantkit.system.progress import Reporter

_WRITE_SECONDS = 0.002
# Of the kills, so many are before anything is written.
_ANYWHERE = 0.2


class _Told(Reporter):
    """Writes its notes to a file at once."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def note(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def slow_writes() -> None:
    """Most of a run's time is then in its writes, where kills are to fall."""
    write = OutputFile.write

    def slowly(self: OutputFile, *args: Any, **options: Any) -> bool:
        time.sleep(_WRITE_SECONDS)
        return write(self, *args, **options)

    OutputFile.write = slowly  # type: ignore[method-assign]


def child(model: Path, adapter: Path, out: Path, log: Path) -> int:
    """Begin a merge in a process of its own; its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        merge(model, out, adapters=[adapter], device="cpu", threads=2, max_shard_size="200K", resume=True,
              reporter=_Told(log))  # fmt: skip
        code = 0
    finally:
        os._exit(code)


def wait_for_journal(out: Path, pid: int) -> None:
    """Until a run has a journal: it takes over what is there, or writes."""
    deadline = time.monotonic() + 20
    while not list(out.glob(f".out.quantkit-{pid}.*/.*.journal")) and time.monotonic() < deadline:
        if (out / "out").exists():
            return
        time.sleep(0.001)


def same(one: Path, other: Path) -> bool:
    """Whether two folders have the same files, without anything hidden."""
    names = sorted(os.listdir(one))
    return names == sorted(os.listdir(other)) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def main(model: str, adapter: str, whole: str, folder: str, kills: str, seed: str) -> None:
    for name in ("CHUNK_WEIGHTS", "LEAST_CHUNK_WEIGHTS"):
        setattr(quantkit.engine.ranges, name, 1 << 10)
    slow_writes()
    generator = random.Random(int(seed))
    out, log = Path(folder), Path(f"{folder}.log")
    log.touch()

    def begin() -> int:
        out.mkdir(exist_ok=True)
        return child(Path(model), Path(adapter), out / "out", log)

    def ended(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    begun = time.monotonic()
    pid = begin()
    wait_for_journal(out, pid)
    planning, begun = time.monotonic() - begun, time.monotonic()
    assert ended(pid) == 0
    writing = time.monotonic() - begun
    found = {"killed": 0, "finished": 1, "different": int(not same(out / "out", Path(whole))), "failed": 0, "left": 0}
    shutil.rmtree(out)
    while found["killed"] < int(kills):
        pid = begin()
        if generator.random() < _ANYWHERE:
            time.sleep(generator.random() * planning)
        else:
            wait_for_journal(out, pid)
            time.sleep(generator.random() * writing / 2)
        os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        if code == -signal.SIGKILL and not (out / "out").exists():
            found["killed"] += 1
            found["left"] = max(found["left"], len(os.listdir(out)))
            continue
        found["failed"] += code not in (0, -signal.SIGKILL)
        found["finished"] += 1
        found["different"] += not same(out / "out", Path(whole))
        shutil.rmtree(out)
    if out.exists():
        found["failed"] += ended(begin()) != 0
        found["different"] += not same(out / "out", Path(whole)) or os.listdir(out) != ["out"]
    notes = log.read_text(encoding="utf-8").splitlines()
    print(json.dumps({**found, "continued": sum(note.startswith("continued: ") for note in notes)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
