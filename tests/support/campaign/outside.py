"""Faults that come from around a run: the kernel ends it for its memory, its network folder goes and comes back, its
disk loses power. What takes the superuser is left out for others, and its row has no trials.
"""

from __future__ import annotations

import errno
from random import Random

from tests.support.campaign.amounts import Amounts
from tests.support.campaign.disk import disk
from tests.support.campaign.group import memory_group
from tests.support.campaign.layer import CHANGES, CLOSE, READ, Fault
from tests.support.campaign.runs import Running
from tests.support.campaign.trials import Bench, Notes, Row


def killed_for_memory(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """A control group with less memory than it takes: the kernel kills it, or a process that it has started."""
    row = Row("out of memory (cgroup)", bench.subject.name)
    with memory_group() as group:
        if group is None:
            return row
        bench.runner.place.clear()
        bench.subject.set_up(bench.runner.place)
        bench.runner.start(bench.subject.arguments, fresh=True, group=group).end()
        most = group.used()
        for _ in range(amounts.others):
            limit = int(random.uniform(0.1, 1) * most)
            group.limit(limit)
            trial = f"{limit >> 20} of {most >> 20} MiB"
            ended = bench.trial(row, trial, group=group, fresh=True, tidy=True)
            if ended.code > 0 and "memory" not in ended.stderr:
                Notes(row, f"{bench.subject.name}: {trial}")("unclear", f"no word of memory: {ended.stderr!r}")
    return row


def hanging(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """A network folder that does not answer for a moment, and goes on as if nothing had been."""
    row = Row("network folder hangs", bench.subject.name)
    for _ in range(amounts.others):
        at, rest = random.randint(1, bench.right.calls), random.randint(100, 1500)
        fault = Fault("hang", kinds=CHANGES | CLOSE | READ, at=at, lasts=True, sleep=rest, ends=rest)
        bench.trial(row, f"{rest} ms from call {at}", fault=fault, must_succeed=True, tidy=True)
    return row


def away(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """A network folder whose calls end with an error after a while, all of them, until it comes back."""
    row = Row("network folder away for a while", bench.subject.name)
    for _ in range(amounts.others):
        at = random.randint(1, bench.right.calls)
        number = random.choice((errno.ETIMEDOUT, errno.ESTALE, errno.EHOSTDOWN))
        wait, ends = random.choice((0, 20, 200)), random.randint(100, 1000)
        kinds = CHANGES | CLOSE | READ
        fault = Fault("error", kinds=kinds, at=at, lasts=True, error=number, sleep=wait, ends=ends)
        bench.trial(row, f"{errno.errorcode[number]} after {wait} ms each, for {ends} ms from call {at}", fault=fault)
    return row


def power_of_a_disk(bench: Bench, random: Random, amounts: Amounts) -> Row:
    """The power of a real disk is cut at random moments; what was promised then is there when it comes back."""
    row = Row("power cut of ext4", bench.subject.name)
    place = bench.runner.place
    place.clear()
    with disk(place.root / "disk", place.outputs) as found:
        if found is None:
            return row
        for _ in range(amounts.kills):
            moment = random.uniform(0.3, 1.8) * bench.right.seconds

            def cut(run: Running, moment: float = moment) -> None:
                run.wait(moment)
                found.cut()

            bench.trial(row, f"power of ext4 after {moment:.4f} s", before=found.flush, disturb=cut, then=found.again)
    return row
