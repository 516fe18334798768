"""``farm``, whose driver, workers and nodes are killed: Ray takes seconds to start, so these are tens of trials."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from quantkit.package.manifest import PACKAGE_MARK
from tests.support.campaign.amounts import Amounts
from tests.support.campaign.runs import Ended, Runner, Running, processes
from tests.support.campaign.subjects import ABSENT, NEW, Right, Subject, right_of
from tests.support.campaign.trials import Bench, Notes, Row
from tests.support.campaign.workplace import tree_of

FARM = "farm"
_LABELS = tuple(f"{adapter}-{quant}" for adapter in ("base", "adapter") for quant in ("q8_0", "q4_k_m"))
_RECIPE = """
model = "{inputs}/model"
out = "{out}"
device = "cpu"
threads = 1

[matrix]
adapters = [[], ["{inputs}/adapter"]]
quants = ["q8_0", "q4_k_m"]
"""
_ARGUMENTS = ("farm", "{inputs}/farm.toml", "--no-verify", "--json")
_PACKAGE = Subject(FARM, _ARGUMENTS, PACKAGE_MARK)
_TEMPORARY = Path("/tmp")  # where the paths of Ray's sockets are short
# Seconds. Ray waits for a minute where a part of it is killed: for its head, and in workers that have just begun.
_PATIENCE = 240.0
_HEAD = ("gcs_server", "raylet/raylet")


class FarmBench:
    """Makes trials of ``farm``, and counts."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self._begun = runner, list[int]()
        place = runner.place
        (place.inputs / "farm.toml").write_text(place.fill(_RECIPE), encoding="utf-8")
        self._inputs = tree_of(place.inputs)
        trees, seconds = list[dict[str, dict[str, str]]](), list[float]()
        for _ in range(2):
            place.clear()
            ended = self.start().end(patience=_PATIENCE)
            if ended.code != 0:
                raise RuntimeError(f"{FARM}: fails undisturbed: {ended.stderr}")
            trees.append({label: tree_of(place.out / label) for label in _LABELS})
            seconds.append(ended.seconds)
        self.seconds = min(seconds)
        self.rights: dict[str, Right] = {
            label: right_of(place.out / label, trees[0][label], trees[1][label], old={}) for label in _LABELS
        }

    def start(self) -> Running:
        """A run, in a new interpreter."""
        running = self.runner.start(_ARGUMENTS, fresh=True)
        self._begun.append(running.pid)
        return running

    def judge(self, note: Notes, ended: Ended, *, must_succeed: bool = False) -> None:
        """Count how a run has ended, and which packages are there."""
        row, states = note.row, self.states()
        if wrong := {label: state for label, state in states.items() if state not in (ABSENT, NEW)}:
            note("wrong", str(wrong))
        Bench.process(note, ended, same_inputs=tree_of(self.runner.place.inputs) == self._inputs)
        if ended.code == 0:
            row.done += 1
            if set(states.values()) != {NEW}:
                note("wrong", f"exit code 0, and the packages are {states}")
        elif ended.code > 0:
            row.refused += 1
            # What Ray's C++ prints begins with a time.
            own = "\n".join(line for line in ended.stderr.splitlines() if not line.startswith("[20"))
            Bench.refusal(note, Ended(ended.code, False, "", own, 0.0))
        else:
            row.ended += 1
        if must_succeed and ended.code != 0:
            note("unclear", f"exit code {ended.code}, and should be 0: {ended.stdout!r} {ended.stderr!r}")

    def states(self) -> dict[str, str]:
        """What is under each name."""
        out = self.runner.place.out
        found = {label: self.rights[label].judge(_PACKAGE, out / label) for label in _LABELS}
        if out.is_dir():
            others = [name for name in os.listdir(out) if name not in _LABELS and not name.startswith(".")]
            found |= dict.fromkeys(others, "a name that nobody asked for")
        return found

    def again(self, note: Notes) -> None:
        """The next run: it must succeed, keep and make the same bytes, and clear what is left."""
        note.row.cleared += bool(self.leftovers())
        ended = self.start().end(alone=True, patience=_PATIENCE)
        if ended.code != 0 or ended.hung or set(self.states().values()) != {NEW}:
            note("leftovers", f"the next run: exit code {ended.code}, {self.states()}: {ended.stderr!r}")
        if left := self.leftovers():
            note("leftovers", f"after the next run: {left}")

    def leftovers(self) -> list[str]:
        """Names that are there and are not an output."""
        place = self.runner.place
        found = list(place.outputs.rglob(".*quantkit*"))
        found += [path for pid in self._begun for path in _TEMPORARY.glob(f"quantkit-{pid}-*")]
        found += place.temporary.iterdir()
        return sorted(map(str, found))

    def all_ended(self, note: Notes) -> None:
        """Whether nothing that these runs have started is still there."""
        deadline = time.monotonic() + _PATIENCE
        while left := [pid for leader in self._begun for pid in processes(leader)]:
            if time.monotonic() > deadline:
                note("hung", f"processes {left} have not ended")
                return
            time.sleep(1)


def farm(bench: FarmBench, random: Random, amounts: Amounts) -> Iterator[Row]:
    """kill -9 of a driver, of all its processes, of a worker, of the head of its cluster; and of nodes."""
    local = Row("kill -9", FARM)
    victims: Sequence[Callable[[Running, Random], str]] = (_driver, _worker, _everything, _worker, _head)
    began = time.monotonic()
    for number in range(amounts.farms):
        victim, moment = victims[number % len(victims)], random.uniform(0.3, 1.0) * bench.seconds
        bench.runner.place.clear()
        running = bench.start()
        hit = "" if running.wait(moment) else victim(running, random)
        ended = running.end(alone=True, patience=_PATIENCE)
        note = Notes(local, f"{FARM}: kill {victim.__name__[1:]} after {moment:.3f} s ({hit})")
        local.tried += 1
        bench.judge(note, ended, must_succeed=victim is _worker)
        bench.again(note)
    bench.all_ended(Notes(local, f"{FARM}: after all of them"))
    local.seconds = time.monotonic() - began
    yield local
    yield _nodes(bench, random, amounts)


def _nodes(bench: FarmBench, random: Random, amounts: Amounts) -> Row:
    """A cluster of three nodes, of which one is killed at a random moment of a farm, and replaced after it."""
    row, place, began = Row("kill -9", f"{FARM}, three nodes"), bench.runner.place, time.monotonic()
    words = [sys.executable, "-m", "tests.support.campaign.farm_nodes", str(place.inputs / "farm.toml")]
    environment = {**os.environ, **place.environment(), "TMPDIR": str(_TEMPORARY)}
    place.clear()
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=place.root
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        for _ in range(amounts.farms):
            place.clear()
            share = random.uniform(0, 1)
            cluster.stdin.write(f"{share}\n")
            cluster.stdin.flush()
            said = json.loads(cluster.stdout.readline())
            note = Notes(row, f"{FARM}: kill {said['killed'] or 'no'} node after {share:.3f} of it")
            row.tried += 1
            row.ended += bool(said["killed"])
            if said["failures"]:
                note("unclear", f"builds failed: {said['failures']}")
            if set(bench.states().values()) != {NEW}:
                note("wrong", f"the farm has ended, and the packages are {bench.states()}")
            if left := [str(path) for path in place.outputs.rglob(".*quantkit*")]:
                note("leftovers", str(left))
    row.seconds = time.monotonic() - began
    return row


def _driver(running: Running, random: Random) -> str:
    running.send(signal.SIGKILL)
    return "driver"


def _everything(running: Running, random: Random) -> str:
    running.send(signal.SIGKILL, session=True)
    return "all"


def _worker(running: Running, random: Random) -> str:
    """A process of Ray's that builds, plans, waits, or keeps the messages."""
    return _kill(
        random, [pid for pid in processes(running.pid) if _name(pid).startswith("ray::") and "Agent" not in _name(pid)]
    )


def _head(running: Running, random: Random) -> str:
    wanted = random.choice(_HEAD)
    return _kill(random, [pid for pid in processes(running.pid) if wanted in _name(pid).partition(" ")[0]])


def _kill(random: Random, found: Sequence[int]) -> str:
    """Kill one of them."""
    if not found:
        return "nothing"
    pid = random.choice(sorted(found))
    name = _name(pid).partition(" ")[0].rpartition("/")[2]
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return name


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
