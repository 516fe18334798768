"""Kills a merge again and again, before random writes or while it plans, each time continued by the next one.

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
import quantkit.files.journal
from quantkit.files.output_file import OutputFile
from quantkit.jobs.merge import merge
from quantkit.system.progress import Reporter
from tests.support.patience import wait_for

# Of the kills, so many are before anything is written.
_ANYWHERE = 0.2
_NEVER = 1 << 60


class _Told(Reporter):
    """Writes its notes to a file at once."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def note(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


class Writes:
    """Counts the writes of a run.

    Attributes:
        made: so many until now.
        most: where the next one would be more, the run is killed.
    """

    def __init__(self) -> None:
        self.made, self.most = 0, _NEVER
        write = OutputFile.write

        def counted(file: OutputFile, *args: Any, **options: Any) -> bool:
            if self.made >= self.most:
                os.kill(os.getpid(), signal.SIGKILL)
            self.made += 1
            return write(file, *args, **options)

        OutputFile.write = counted  # type: ignore[method-assign]


def child(model: Path, adapter: Path, out: Path, log: Path, writes: Writes, most: int) -> int:
    """Begin a merge in a process of its own, which makes so many writes at most; its id."""
    if pid := os.fork():
        return pid
    code, writes.most = 1, most
    try:
        merge(model, out, adapters=[adapter], device="cpu", threads=2, max_shard_size="200K", resume=True,
              reporter=_Told(log))  # fmt: skip
        _count(log).write_text(str(writes.made), encoding="utf-8")
        code = 0
    finally:
        os._exit(code)


def _count(log: Path) -> Path:
    """Where a run that has ended tells how many writes it has made."""
    return log.with_suffix(".writes")


def has_journal(out: Path, pid: int) -> bool:
    """Whether a run has a journal, or has had one: it takes over what is there, or writes."""
    return bool(list(out.glob(f".out.quantkit-{pid}.*/.*.journal"))) or (out / "out").exists()


def same(one: Path, other: Path) -> bool:
    """Whether two folders have the same files, without anything hidden."""
    names = sorted(os.listdir(one))
    return names == sorted(os.listdir(other)) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def main(model: str, adapter: str, whole: str, folder: str, kills: str, seed: str) -> None:
    for name in ("CHUNK_WEIGHTS", "LEAST_CHUNK_WEIGHTS"):
        setattr(quantkit.engine.ranges, name, 1 << 10)
    quantkit.files.journal.WRITE_SECONDS = 0.0  # what is finished is recorded, however fast this machine is
    generator, writes = random.Random(int(seed)), Writes()
    out, log = Path(folder), Path(f"{folder}.log")
    log.touch()

    def begin(most: int = _NEVER) -> int:
        out.mkdir(exist_ok=True)
        return child(Path(model), Path(adapter), out / "out", log, writes, most)

    def ended(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    begun = time.monotonic()
    pid = begin()
    wait_for(lambda: has_journal(out, pid))
    planning = time.monotonic() - begun
    assert ended(pid) == 0
    most = int(_count(log).read_text(encoding="utf-8")) // 2
    found = {"killed": 0, "finished": 1, "different": int(not same(out / "out", Path(whole))), "failed": 0, "left": 0}
    shutil.rmtree(out)
    while found["killed"] < int(kills):
        if generator.random() < _ANYWHERE:
            pid = begin()
            time.sleep(generator.random() * planning)
            os.kill(pid, signal.SIGKILL)
        else:
            pid = begin(generator.randint(1, most))
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
