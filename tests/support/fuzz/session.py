"""A reader fuzzed for some time: processes one after another, and what they say of themselves."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.fuzz.made_seeds import further
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.registry import kept
from tests.support.fuzz.scratch import remove_left

ROOT = Path(__file__).resolve().parents[3]
# The first edges that libFuzzer counts in a process are of importing and reading the seeds.
_STATUS = re.compile(r"#(\d+)\s.*\bcov: (\d+) ft: (\d+)")
_DONE = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_LOG = "log.txt"
_STARTS = 20  # after so many crashes of the process a reader has had its turn
_HANGS = 120  # seconds for one input, by the clock: then libFuzzer ends the process


@dataclass(frozen=True)
class Row:
    """What came of a reader.

    Attributes:
        reader: its name.
        executions: inputs that were read.
        seconds: by the clock, without the start of the processes.
        edges, features: libFuzzer's count of branches in quantkit, and of branches with how often they were taken.
        findings: files with an input for each fault.
    """

    reader: str
    executions: int
    seconds: float
    edges: int
    features: int
    findings: tuple[Path, ...]


def fuzz(reader: Reader, *, seconds: float, seed: int, corpus: Path, findings: Path, say: Callable[[str], None]) -> Row:
    """Fuzz a reader.

    Args:
        reader: the reader.
        seconds: by the clock.
        seed: of the random numbers; how many inputs there is time for depends on the machine.
        corpus: a folder that grows.
        findings: a folder for inputs that show a fault.
        say: is told how far it is.
    """
    new = not corpus.exists()  # in a corpus that is kept, the inputs to begin with are already
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*reader.seeds(), *further(reader)) if new else ()):
        (corpus / f"seed-{number:03d}").write_bytes(data)
    for path in kept(reader.name):
        (corpus / path.name).write_bytes(path.read_bytes())
    before = {path.name for path in findings.iterdir()}
    executions = edges = features = 0
    spent = 0.0
    for start in range(_STARTS):
        if (left := round(seconds - spent)) < 1:
            break
        done, began = 0, time.monotonic()
        for line in _lines(_command(reader, corpus, findings, left, seed + start), findings):
            if found := _STATUS.search(line):
                if not done:
                    began = time.monotonic()
                done, edges, features = int(found[1]), max(edges, int(found[2])), max(features, int(found[3]))
                say(f"{reader.name}: {executions + done} inputs, {edges} edges, {features} features")
            elif found := _DONE.search(line):
                done = int(found[1])
        if not done:
            raise RuntimeError(f"{reader.name} does not start: see {findings / _LOG}")
        executions += done
        spent += max(1.0, time.monotonic() - began)
    inputs = sorted(path for path in findings.iterdir() if path.name not in before and path.suffix != ".txt")
    return Row(reader.name, executions, spent, edges, features, tuple(inputs))


def _command(reader: Reader, corpus: Path, findings: Path, seconds: int, seed: int) -> list[str]:
    options = {
        "artifact_prefix": f"{findings}/{reader.name}-",
        "len_control": 100 if reader.mutate is None else 0,  # cutting structures to a length breaks them
        "max_len": reader.largest,
        "max_total_time": seconds,
        "print_final_stats": 1,
        "report_slow_units": _HANGS,
        "rss_limit_mb": 0,  # each input has its limit
        "seed": seed or 1,  # 0 is a random one
        "timeout": _HANGS,
    }
    module = [sys.executable, "-m", "tests.support.fuzz.child", reader.name, str(findings)]
    return [*module, *(f"-{name}={value}" for name, value in options.items()), str(corpus)]


def _lines(command: Sequence[str], findings: Path) -> Iterator[str]:
    """What the process says, which is also kept."""
    with (
        (findings / _LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
        ) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            log.write(line)
            yield line
    remove_left(process.pid)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| reader | inputs | a second | edges | features | findings |", "| --- " + "| ---: " * 5 + "|"]
    for row in rows:
        rate = row.executions / row.seconds if row.seconds else 0
        cells = (row.reader, f"{row.executions:,}", f"{rate:,.0f}", row.edges, row.features, len(row.findings))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
