"""Measured processes: wall time, processor time, peak memory and bytes moved by the kernel's figures, the memory of the
graphics cards by nvidia-smi's."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured process, or the median of several.

    Attributes:
        name: what it did.
        wall: seconds.
        cpu: seconds of all cores.
        peak_gib: peak memory of the process, GiB.
        gpu_gib: peak memory in use on all graphics cards, GiB, beyond what was in use before.
        read_gb: bytes given by read(), GB.
        written_gb: bytes given to write(), GB.
        quants: the types that it makes.
        stream: seconds that a build took for its stream, by its own report.
        compiled: seconds that it took to compile or load its encoders, by its own report.
        runs: how many runs it is the median of.
    """

    name: str
    wall: float
    cpu: float
    peak_gib: float
    gpu_gib: float
    read_gb: float
    written_gb: float
    quants: tuple[str, ...] = ()
    stream: float = 0.0
    compiled: float = 0.0
    runs: int = 1


class GPUMemory:
    """Memory in use on all graphics cards beyond what was in use before, looked at several times a second."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> GPUMemory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        before = self._used()
        while before is not None and not self._ended.wait(0.1):
            self.peak = max(self.peak, (self._used() or 0.0) - before)

    def _used(self) -> float | None:
        """GiB; None without nvidia-smi."""
        if shutil.which("nvidia-smi") is None:
            return None
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8")
        return sum(map(float, done.stdout.split())) / 1024 if done.returncode == 0 else None


def run(name: str, command: Sequence[str], quants: Sequence[str] = ()) -> Figure:
    """Run a command to its end and measure it; its output goes nowhere, and the figure to stderr."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with GPUMemory() as memory:
        time.sleep(0.2)  # it must have looked before the process is there
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        errors = process.stderr.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall = time.perf_counter() - start
    read, written = _bytes_moved(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{name} failed:\n{errors.decode(errors='replace')[-4000:]}")
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20
    print(f"{name}: {wall:.2f} s", file=sys.stderr, flush=True)
    return Figure(name, wall, cpu, peak, memory.peak, read / 1e9, written / 1e9, tuple(quants))


def _bytes_moved(pid: int) -> tuple[int, int]:
    """Bytes the process was given by read() and handed to write(), which the kernel still knows until it is reaped."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]), int(counts["wchar"])


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    os.sync()
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def warm(folder: Path) -> None:
    """Have a folder's files in the page cache."""

    def read(path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, folder.iterdir()))


def median(figures: Sequence[Figure]) -> Figure:
    """The median of every figure, the worst peaks."""
    keys = ("wall", "cpu", "read_gb", "written_gb", "stream", "compiled")
    middle = {key: statistics.median(getattr(figure, key) for figure in figures) for key in keys}
    return replace(figures[0], **middle, **_peaks(figures), runs=len(figures))


def total(name: str, figures: Sequence[Figure]) -> Figure:
    """Steps one after another: times add up, the peak is the highest."""
    sums = {key: sum(getattr(figure, key) for figure in figures) for key in ("wall", "cpu", "read_gb", "written_gb")}
    return Figure(name, **sums, **_peaks(figures))


def _peaks(figures: Iterable[Figure]) -> dict[str, float]:
    figures = list(figures)
    return {key: max(getattr(figure, key) for figure in figures) for key in ("peak_gib", "gpu_gib")}
