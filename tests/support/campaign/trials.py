"""One trial: a run that is disturbed, judged, and followed by one that is not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.support.campaign.group import Group
from tests.support.campaign.layer import Fault
from tests.support.campaign.runs import Ended, Runner, Running
from tests.support.campaign.subjects import ABSENT, NEW, OLD, UNFINISHED, Right, Subject
from tests.support.campaign.workplace import tree_of

# What a run of more than ten seconds says without a terminal.
_PROGRESS = re.compile(r"(?!error|hint)[^:]+: .+ of .+ after \d+ s")

BAD = ("wrong", "lost", "hung", "tracebacks", "unclear", "leftovers")
"""What is counted, and must be 0."""


@dataclass(frozen=True)
class Finding:
    """Something that must not be.

    Attributes:
        kind: one of :data:`BAD`.
        trial: what was done, so that it can be done again.
        what: what was found.
    """

    kind: str
    trial: str
    what: str


@dataclass
class Row:
    """The sums of one kind of fault and one subject.

    Attributes:
        tried: runs that were disturbed.
        done: that ended with exit code 0 and the right output.
        refused: that ended with an error and a hint.
        ended: that were killed or interrupted.
        cleared: that left temporary files, which the next run removed.
        findings: what must not be.
    """

    kind: str
    subject: str
    tried: int = 0
    done: int = 0
    refused: int = 0
    ended: int = 0
    cleared: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return sum(finding.kind == kind for finding in self.findings)


class Bench:
    """Makes trials of one subject, and counts.

    Attributes:
        runner: starts runs.
        subject: the command.
        right: what it leaves undisturbed.
    """

    def __init__(self, runner: Runner, subject: Subject, right: Right) -> None:
        self.runner, self.subject, self.right = runner, subject, right
        self._inputs = tree_of(runner.place.inputs)
        self._cache = tree_of(runner.place.cache).keys()

    def trial(
        self,
        row: Row,
        name: str,
        *,
        fault: Fault | None = None,
        limits: Mapping[int, int] | None = None,
        group: Group | None = None,
        fresh: bool = False,
        before: Callable[[], None] = lambda: None,
        disturb: Callable[[Running], None] = lambda run: None,
        then: Callable[[], None] = lambda: None,
        tidy: bool = False,
        must_succeed: bool = False,
    ) -> Ended:
        """Disturb a run, judge what is there, run undisturbed, judge again.

        Args:
            row: where it is counted.
            name: how to do it again.
            fault, limits, group, fresh: as :meth:`Runner.start`.
            before: called when what was there before is there.
            disturb: called with the run, when it has begun.
            then: called when it has ended.
            tidy: a run that ends by itself must leave nothing.
            must_succeed: it may not fail.
        """
        place = self.runner.place
        place.clear()
        self.subject.set_up(place)
        before()
        running = self.runner.start(self.subject.arguments, fault=fault, limits=limits, group=group, fresh=fresh)
        disturb(running)
        ended = running.end()
        then()
        note = Notes(row, f"{self.subject.name}: {name}")
        row.tried += 1
        self.judge(note, ended, must_succeed=must_succeed)
        left = self.leftovers()
        if tidy and ended.code >= 0:
            self.tidy(note, left, f"exit code {ended.code}")
        if left or ended.code < 0:
            self.again(note)
            row.cleared += bool(left)
        return ended

    def judge(self, note: Notes, ended: Ended, *, must_succeed: bool = False, removed: bool = False) -> None:
        """Count how a run has ended, and what it has left under the final name; *removed*: somebody has removed all."""
        row = note.row
        state = self.right.judge(self.subject, self.runner.place.out)
        if state not in (ABSENT, OLD, NEW, UNFINISHED):
            note("wrong", state)
        if self.subject.overwrites and state == ABSENT and ended.code >= 0 and not removed:
            note("lost", "the older output is gone")
        self.process(note, ended, same_inputs=tree_of(self.runner.place.inputs) == self._inputs)
        if ended.code == 0:
            row.done += 1
            if state != NEW:
                note("wrong", f"exit code 0, and the output is {state}; stderr {ended.stderr!r}")
        elif ended.code in (1, 3):
            row.refused += 1
            self.refusal(note, ended)
            if must_succeed:
                note("unclear", f"it failed, and should not: {ended.stderr!r}")
        elif ended.code < 0 or ended.code == 130:
            row.ended += 1
        else:
            note("unclear", f"exit code {ended.code}: {ended.stderr!r}")

    def tidy(self, note: Notes, left: Sequence[str], how: str) -> None:
        """What is left is only what the next run goes on with."""
        keeps = self.subject.keeps
        if [name for name in left if not keeps or keeps not in name]:
            note("leftovers", f"{how}, and {left} is left")

    @staticmethod
    def process(note: Notes, ended: Ended, *, same_inputs: bool) -> None:
        """What no run may do, however it ends."""
        if not same_inputs:
            note("lost", "an input has changed")
        if ended.hung:
            note("hung", "it, or a process it started, did not end")
        if "Traceback" in ended.stderr or "Fatal Python error" in ended.stderr:
            note("tracebacks", ended.stderr)

    @staticmethod
    def refusal(note: Notes, ended: Ended) -> None:
        """Beside notes, remarks of a chat and how far it is, a run that has failed says one error and one hint."""
        lines = [line for line in ended.stderr.splitlines() if not line.startswith(("note: ", "("))]
        lines = [line for line in lines if not _PROGRESS.fullmatch(line)]
        starts = [line.partition(":")[0] for line in lines]
        if starts != ["error", "hint"]:
            note("unclear", f"exit code {ended.code}: {ended.stderr!r}")

    def again(self, note: Notes) -> None:
        """The next run of the same command: it must succeed, give the same bytes, and clear what is left.

        What it says of what is left follows from the trial's name: nothing, ``--resume``, ``--overwrite`` or both.
        Whoever says nothing of what can be continued is refused, and then says it.
        """
        random = Random(note.trial)
        plain, said = self.subject.arguments, self.subject.sayings
        arguments = (*plain, *random.choice(said))
        asks = "--overwrite" not in arguments and not self.subject.overwrites
        if asks and self.right.judge(self.subject, self.runner.place.out) == NEW:
            arguments = (*arguments, "--overwrite")
        ended = self.runner.start(arguments).end()
        if ended.code == 1 and "--resume" in ended.stderr:
            if arguments != plain:
                note("unclear", f"{arguments} is refused: {ended.stderr!r}")
            self.refusal(note, ended)
            ended = self.runner.start((*plain, *random.choice(said[1:]))).end()
        state = self.right.judge(self.subject, self.runner.place.out)
        if ended.code != 0 or state != NEW or ended.hung:
            note("leftovers", f"the next run: exit code {ended.code}, output {state}: {ended.stderr!r}")
        if left := self.leftovers():
            note("leftovers", f"after the next run: {left}")

    def leftovers(self) -> list[str]:
        """Names that are there and are not an output."""
        place = self.runner.place
        names = [f"outputs/{name}" for name in os.listdir(place.outputs) if name != "out"]
        names += [f"temporary/{name}" for name in os.listdir(place.temporary)]
        # Compiled code is there to stay, also what one interpreter needs and another does not.
        cached = [name for name in tree_of(place.cache).keys() - self._cache if not name.endswith(".nbc")]
        return sorted(names + [f"cache/{name}" for name in cached])


@dataclass(frozen=True)
class Notes:
    """Enters what a trial finds."""

    row: Row
    trial: str

    def __call__(self, kind: str, what: str) -> None:
        assert kind in BAD, kind
        self.row.findings.append(Finding(kind, self.trial, what))
