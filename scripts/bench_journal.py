"""What the journal of ``--resume`` costs a run without a fault: the same build with and without it, in turns."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench_measure import Figure, median

# Both run the same code up to here; without heads a stream keeps no journals.
_MAIN = "import sys; from quantkit.jobs import run_stream; {}; from quantkit.cli.main import main; main(sys.argv[1:])"
WITH = _MAIN.format("run_stream.journal_heads")
WITHOUT = _MAIN.format("run_stream.journal_heads = lambda *arguments: {}")
# Counts the journal's calls in one more run, and prints them as the last line of stderr.
COUNTED = """
import atexit, json, os, sys
from quantkit.files.journal import JournalWriter
from quantkit.files import journal
counts = {"records": 0, "writes": 0, "bytes": 0}
finished, write = JournalWriter.finished, os.write
def counted(self, index, record):
    counts["records"] += 1
    finished(self, index, record)
class Written:
    def __getattr__(self, name):
        return getattr(os, name)
    def write(self, fd, data):
        done = write(fd, data)
        counts["writes"] += 1
        counts["bytes"] += done
        return done
JournalWriter.finished, journal.os = counted, Written()
atexit.register(lambda: print("\\n" + json.dumps(counts), file=sys.stderr))
from quantkit.cli.main import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Pairs:
    """Builds with and without the journal, side by side."""

    kept: tuple[Figure, ...]
    bare: tuple[Figure, ...]

    def overhead(self, value: Callable[[Figure], float]) -> tuple[float, float, float]:
        """How much more the journal costs, as a share: the median of the pairs, and their quartiles."""
        shares = [value(one) / value(other) - 1 for one, other in zip(self.kept, self.bare, strict=True)]
        if len(shares) == 1:
            return shares[0], shares[0], shares[0]
        low, middle, high = statistics.quantiles(shares, n=4, method="inclusive")
        return middle, low, high

    def lines(self) -> list[str]:
        """For people."""
        found = []
        for name, value in (("CPU", lambda it: it.cpu), ("wall", lambda it: it.wall)):
            middle, low, high = self.overhead(value)
            spread = f"quartiles {low:+.2%}, {high:+.2%}; {len(self.kept)} pairs"
            found.append(f"journal, {name} time: {middle:+.2%} ({spread})")
        return found

    def figures(self) -> list[Figure]:
        """The medians."""
        sides = (("with the journal", self.kept), ("without", self.bare))
        return [replace(median(list(side)), name=f"quantkit build, {name}") for name, side in sides]


def measure(build: Callable[[str, str], Figure], pairs: int) -> Pairs:
    """Run pairs, whose order changes from one to the next.

    Args:
        build: runs one, given its name and the code to run; the first pair only warms up.
        pairs: how many count.
    """
    kept: list[Figure] = []
    bare: list[Figure] = []
    for number in range(pairs + 1):
        sides = [("with the journal", WITH, kept), ("without", WITHOUT, bare)]
        for name, code, into in sides if number % 2 else reversed(sides):
            into.append(build(f"{name}, {number or 'not counted'}", code))
    return Pairs(tuple(kept[1:]), tuple(bare[1:]))


def on_paper(errors: str, seconds: float) -> str:
    """What the journal does, from the counts of a run."""
    counts = json.loads(errors.strip().splitlines()[-1])
    each = counts["bytes"] / max(counts["writes"], 1)
    return (
        f"journal, on paper: {counts['records']} records, {counts['writes']} calls of write(), "
        f"{counts['bytes'] / 1e3:.1f} kB, {each:.0f} bytes each; {counts['writes'] / seconds:.1f} calls a second of CPU"
    )


def python(code: str, words: Sequence[str]) -> list[str]:
    """The command that runs quantkit through a piece of code."""
    return [sys.executable, "-c", code, *words]
