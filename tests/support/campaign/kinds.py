"""The kinds of faults, each a function that makes its trials of one subject."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from random import Random

from tests.support.campaign.amounts import Amounts
from tests.support.campaign.layer import CHANGES, CLOSE, READ, TAKES_ROOM, WRITE, Fault
from tests.support.campaign.outside import away, hanging, killed_for_memory, power_of_a_disk
from tests.support.campaign.power import power
from tests.support.campaign.runs import Running
from tests.support.campaign.subjects import NEW, Subject
from tests.support.campaign.trials import Bench, Notes, Row

_YEARS = 10 * 365 * 86400
# Seconds of a new interpreter before a line of the program: Python answers a Ctrl-C with a traceback until then.
_INTERPRETER = 0.3


def kill(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """kill -9: half at random moments, half at random calls that change a file; a tenth in a new interpreter."""
    row = Row("kill -9", bench.subject.name)
    for number in range(amounts.kills):
        if number % 2:
            at = random.randint(1, bench.right.calls)
            bench.trial(row, f"kill at call {at}", fault=Fault("kill", at=at))
            continue
        fresh = number % 10 == 8
        moment = random.uniform(0, bench.right.seconds * (1.5 if fresh else 1.05))
        whole = random.random() < 0.5
        bench.trial(
            row,
            f"kill {'all' if whole else 'it'} after {moment:.4f} s{' fresh' * fresh}",
            disturb=_signal(signal.SIGKILL, moment, session=whole),
            fresh=fresh,
        )
    return row


def signals(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """Signals that ask a program to end, at random moments: it ends, and leaves nothing."""
    row = Row("SIGINT, SIGTERM, SIGHUP", bench.subject.name)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for _ in range(amounts.signals):
            fresh, whole = random.random() < 0.2, random.random() < 0.3  # a terminal tells all
            moment = random.uniform(0, bench.right.seconds * (1.5 if fresh else 1)) + (_INTERPRETER if fresh else 0)
            name = f"{number.name} to {'all' if whole else 'it'} after {moment:.4f} s{' fresh' * fresh}"
            bench.trial(row, name, disturb=_signal(number, moment, session=whole), tidy=True, fresh=fresh)
    return row


def stopped(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """SIGSTOP, and SIGCONT a moment later: nothing comes of it."""
    row = Row("SIGSTOP, SIGCONT", bench.subject.name)
    for _ in range(amounts.others):
        moment, rest = random.uniform(0, bench.right.seconds), random.uniform(0, 0.4)

        def disturb(run: Running, moment: float = moment, rest: float = rest) -> None:
            run.wait(moment)
            run.send(signal.SIGSTOP, session=True)
            time.sleep(rest)
            run.send(signal.SIGCONT, session=True)

        bench.trial(row, f"stop after {moment:.4f} s for {rest:.4f} s", disturb=disturb, must_succeed=True, tidy=True)
    return row


def full(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """No space, or a quota, from the N-th call on that needs some."""
    row = Row("disk full from a call on", bench.subject.name)
    for at in _calls(bench, random, amounts):
        number = random.choice((errno.ENOSPC, errno.ENOSPC, errno.EDQUOT))
        fault = Fault("error", kinds=TAKES_ROOM, at=at, lasts=True, error=number)
        bench.trial(row, f"{errno.errorcode[number]} from call {at}", fault=fault, tidy=True)
    return row


def broken(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """EIO at the N-th call that changes a file, or closes one that was written."""
    row = Row("EIO at a call", bench.subject.name)
    for at in _calls(bench, random, amounts, more=1.3):
        bench.trial(row, f"EIO at call {at}", fault=Fault("error", kinds=CHANGES | CLOSE, at=at, error=errno.EIO))
    return row


def unreadable(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """EIO at random reads of the inputs."""
    row = Row("EIO at a read", bench.subject.name)
    roots = (bench.runner.place.outputs if bench.subject.changes else bench.runner.place.inputs,)
    bench.runner.place.clear()
    bench.subject.set_up(bench.runner.place)
    bench.runner.start(bench.subject.arguments, fault=Fault(kinds=READ, roots=roots)).end()
    reads, _, _ = bench.runner.state.read()
    for at in sorted(random.sample(range(1, reads + 1), min(reads, amounts.others))):
        fault = Fault("error", kinds=READ, at=at, error=errno.EIO, roots=roots)
        bench.trial(row, f"EIO at read {at}", fault=fault, tidy=True)
    return row


def short(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """Writes that take half of what they are given: one of them, or all from one on."""
    row = Row("short writes", bench.subject.name)
    for at in [1, *_calls(bench, random, amounts)][:: 1 if amounts.sweep > 1 else 2]:
        fault = Fault("short", kinds=WRITE, at=at, lasts=at == 1 or random.random() < 0.3)
        bench.trial(row, f"short write {at}{' and all after' * fault.lasts}", fault=fault, must_succeed=True, tidy=True)
    return row


def read_only(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """A disk that is read-only, or a network folder that is gone, from the N-th call on."""
    row = Row("read-only, stale from a call on", bench.subject.name)
    for at in _calls(bench, random, amounts):
        number = random.choice((errno.EROFS, errno.EACCES, errno.ESTALE, errno.ENOTCONN))
        fault = Fault("error", at=at, lasts=True, error=number)
        bench.trial(row, f"{errno.errorcode[number]} from call {at}", fault=fault)
    return row


def vanishing(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """The folder of the output is removed in the middle."""
    row = Row("output folder vanishes", bench.subject.name)
    outputs = bench.runner.place.outputs
    for _ in range(0 if bench.subject.changes else amounts.others):  # there is no command without its input
        moment = random.uniform(0, bench.right.seconds)

        def disturb(run: Running, moment: float = moment) -> None:
            run.wait(moment)
            shutil.rmtree(outputs, ignore_errors=True)

        def trial(moment: float = moment, disturb: Callable[[Running], None] = disturb) -> None:
            place = bench.runner.place
            place.clear()
            bench.subject.set_up(place)
            running = bench.runner.start(bench.subject.arguments)
            disturb(running)
            ended = running.end()
            outputs.mkdir(exist_ok=True)
            note = Notes(row, f"{bench.subject.name}: outputs removed after {moment:.4f} s")
            row.tried += 1
            done = ended.code == 0 and not os.listdir(outputs)  # it was done, and then removed
            if done:
                row.done += 1
            else:
                bench.judge(note, ended, removed=True)
            if left := bench.leftovers():
                bench.again(note)
                row.cleared += bool(left)

        trial()
    return row


def file_size(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """A limit on the size of files."""
    row = Row("RLIMIT_FSIZE", bench.subject.name)
    for _ in range(amounts.others):
        most = int(2 ** random.uniform(0, 23))
        bench.trial(row, f"files of {most} bytes at most", limits={resource.RLIMIT_FSIZE: most}, tidy=True)
    return row


def memory(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """A limit on the address space, in a new interpreter."""
    row = Row("RLIMIT_AS", bench.subject.name)
    for _ in range(amounts.others):
        most = int(random.uniform(120, 1600)) << 20  # with less, OpenBLAS ends the program with a line of its own
        bench.trial(row, f"{most >> 20} MiB at most", limits={resource.RLIMIT_AS: most}, fresh=True, tidy=True)
    return row


def clock(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """The clock jumps by ten years, there or back."""
    row = Row("clock jumps", bench.subject.name)
    for _ in range(amounts.others):
        by, at = random.choice((-_YEARS, _YEARS)), random.randint(1, max(1, bench.right.clock))
        fault = Fault(clock=by, clock_at=at)
        bench.trial(row, f"{by} s at look {at}", fault=fault, must_succeed=True, tidy=True)
    return row


def two(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """Two runs with the same output: one of them at least succeeds, and the output is whole."""
    row = Row("two at a time", bench.subject.name)
    place = bench.runner.place
    for _ in range(amounts.others):
        place.clear()
        bench.subject.set_up(place)
        moment = random.uniform(0, bench.right.seconds) * random.choice((0, 1))
        first = bench.runner.start(bench.subject.arguments)
        first.wait(moment)
        second = bench.runner.start(bench.subject.arguments)
        both = [first.end(), second.end()]
        note = Notes(row, f"{bench.subject.name}: a second one after {moment:.4f} s")
        row.tried += 1
        state = bench.right.judge(bench.subject, place.out)
        if state != NEW or all(ended.code for ended in both):
            note("wrong", f"{state}: {[(ended.code, ended.stderr) for ended in both]}")
        for ended in both:
            if ended.code not in (0, 1) or ended.hung or "Traceback" in ended.stderr:
                note("unclear", f"exit code {ended.code}: {ended.stderr!r}")
        row.done += sum(ended.code == 0 for ended in both)
        row.refused += sum(ended.code == 1 for ended in both)
        bench.tidy(note, bench.leftovers(), "two runs have ended")
    return row


_FLUSHED = ("power", "ext4")


def kinds_of(subject: Subject, names: Iterable[str]) -> list[str]:
    """Those of the kinds that a subject is tried with: power cuts, where it promises something about them; the others
    are the same with ``--fsync`` and without, so of them, it is only killed.
    """
    mine = (*_FLUSHED, "kill") if subject.flushed else [name for name in KINDS if name not in _FLUSHED]
    return [name for name in names if name in mine]


KINDS: dict[str, Callable[[Bench, Random, Amounts], Row]] = {
    "kill": kill,
    "signals": signals,
    "stopped": stopped,
    "full": full,
    "broken": broken,
    "unreadable": unreadable,
    "short": short,
    "read-only": read_only,
    "vanishing": vanishing,
    "file-size": file_size,
    "memory": memory,
    "cgroup": killed_for_memory,
    "hanging": hanging,
    "away": away,
    "clock": clock,
    "two": two,
    "power": power,
    "ext4": power_of_a_disk,
}


def _signal(number: int, moment: float, *, session: bool = False) -> Callable[[Running], None]:
    def disturb(run: Running) -> None:
        if not run.wait(moment):
            run.send(number, session=session)

    return disturb


def _calls(bench: Bench, random: Random, amounts: Amounts, more: float = 1.0) -> list[int]:
    """The numbers of the calls that fail."""
    calls = range(1, int(bench.right.calls * more) + 1)
    return list(calls[random.randrange(amounts.sweep) :: amounts.sweep])
