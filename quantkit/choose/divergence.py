"""How far a file's answers are from the reference's, from outside: one process evaluates file after file."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.errors import QuantkitError
from quantkit.system.child_process import ended_how, start_module
from quantkit.system.temporary import temporary_root

# A sensitivity needs few positions: a text is cut into sequences, and the first positions of each, which know little of
# what came before, are passed over.
CONTEXT, SKIPPED = 512, 64
# One sequence instead of two gives choices that are a thousandth worse; large models take it for half the time.
_LARGE = 10**9
FEWEST = 4 * SKIPPED
"""Tokens of a text that can be measured on."""
TRACK = "choice"
"""The track of the timeline."""
_WORKER = "quantkit.choose.divergence_worker"


def sequence_count(weights: int) -> int:
    """How many sequences a model of so many weights is evaluated on."""
    return 1 if weights >= _LARGE else 2


def sequences(ids: Sequence[int], wanted: int, bos: int | None = None) -> tuple[tuple[int, ...], ...]:
    """Sequences of a text, spread over it.

    Args:
        ids: its tokens.
        wanted: how many sequences; a short text has fewer.
        bos: what each begins with, in place of a token; None to leave all.
    """
    if len(ids) <= CONTEXT:
        return (tuple(ids),)
    count = min(wanted, len(ids) // CONTEXT)
    starts = [(len(ids) - CONTEXT) * number // max(1, count - 1) if count > 1 else 0 for number in range(count)]
    return tuple(tuple(_begun(ids[start : start + CONTEXT], bos)) for start in starts)


def _begun(ids: Sequence[int], bos: int | None) -> Sequence[int]:
    return ids if bos is None else [bos, *ids[1:]]


@dataclass(frozen=True, eq=False)
class Divergence:
    """A process that has the reference's answers.

    Attributes:
        process: see :mod:`quantkit.choose.divergence_worker`.
        reference: the reference's file.
        timeline: told what the process does.
        reloaded: tensors that the process could not bring up to date without loading the file again.
    """

    process: subprocess.Popen[bytes]
    reference: Path
    timeline: NoTimeline
    reloaded: set[str] = field(default_factory=set)

    def of(self, gguf: Path) -> float:
        """The mean KL divergence of a file, in nats.

        Raises:
            QuantkitError: llama.cpp refuses the file, or ends.
        """
        return float(self.ask({"gguf": str(gguf)})["divergence"])

    def again(self, names: Collection[str]) -> float:
        """The mean KL divergence of the reference from what it was, in nats.

        Args:
            names: the tensors that are other ones in its file now; the others are what they were.

        Raises:
            QuantkitError: llama.cpp ends.
        """
        found = self.ask({"gguf": str(self.reference), "changed": sorted(names)})
        self.reloaded.update(found["reloaded"])
        return float(found["divergence"])

    def ask(self, question: dict[str, Any]) -> Any:
        """Send a question and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        begun = time.perf_counter()
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            how = ended_how(self.process.wait())
            raise QuantkitError(
                f"{question['gguf']}: llama.cpp ended with {how} while it evaluated the file",
                hint="free memory and try again, or check the model with: quantkit smoke FILE.gguf",
            )
        found = json.loads(line)
        if "refused" in found:
            raise QuantkitError(found["refused"], hint=found["hint"])
        for part, seconds in found["seconds"].items():
            self.timeline.add(TRACK, part, begun, begun + seconds)
            begun += seconds
        return found["answer"]


@contextmanager
def divergence_from(
    reference: Path,
    ids: Sequence[Sequence[int]],
    kept: Path,
    *,
    threads: int | None,
    offload: bool,
    mapped: bool = True,
    timeline: NoTimeline = NO_TIMELINE,
) -> Iterator[Divergence]:
    """Evaluate a reference, and then others.

    Args:
        reference: its file.
        ids: the sequences of tokens.
        kept: where the reference's log-probabilities may lie: 4 bytes for each position and token of the vocabulary.
        threads: processors to use, default all.
        offload: whether a device may evaluate, if llama.cpp was built for one.
        mapped: whether llama.cpp may compute with the pages of the file, where no device evaluates.
        timeline: told what the process does.

    Raises:
        QuantkitError: llama.cpp refuses the file, or ends.
    """
    with tempfile.TemporaryFile(dir=temporary_root()) as log, start_module(_WORKER, stderr=log) as process:
        try:
            one = Divergence(process, reference, timeline)
            skip = min(SKIPPED, min(map(len, ids)) - 1)
            one.ask(
                {
                    "gguf": str(reference),
                    "sequences": [list(sequence) for sequence in ids],
                    "skip": skip,
                    "kept": str(kept),
                    "threads": threads,
                    "offload": offload,
                    "mapped": mapped,
                }
            )
            yield one
        except BaseException:
            process.kill()
            raise
        finally:
            kept.unlink(missing_ok=True)
