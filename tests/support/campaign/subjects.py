"""The commands that a campaign disturbs, and what each leaves when it is not disturbed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.calibrate.imatrix_file import read_progress
from quantkit.errors import QuantkitError
from quantkit.files.replaceable import Mark
from quantkit.model.merge_record import MERGED_MARK
from quantkit.package.manifest import PACKAGE_MARK
from tests.support.campaign.layer import Fault
from tests.support.campaign.runs import Runner
from tests.support.campaign.workplace import Tree, Workplace, tree_of

ABSENT, OLD, NEW, UNFINISHED = "absent", "old", "new", "unfinished"


@dataclass(frozen=True)
class Subject:
    """A command.

    Attributes:
        name: of it, in the table.
        arguments: with ``{inputs}`` and ``{out}``.
        mark: of the folder that it makes; None for a file.
        overwrites: an older output is there, and is replaced.
        continues: interrupted, it may leave an unfinished file that the next run goes on with.
        changes: a file of the inputs, a copy of which is the older output, and is changed or replaced.
        keeps: in names of what it may leave beside the output when it fails: the next run goes on with that.
    """

    name: str
    arguments: tuple[str, ...]
    mark: Mark | None = None
    overwrites: bool = False
    continues: bool = False
    changes: str = ""
    keeps: str = ""

    @property
    def sayings(self) -> tuple[tuple[str, ...], ...]:
        """What the next run may say of what is left; first nothing."""
        if "--resume" in self.arguments:
            return (), ("--overwrite",)
        if self.arguments[0] in ("build", "convert", "quantize", "merge"):
            return (), ("--resume",), ("--overwrite",), ("--resume", "--overwrite")
        return ((),) if self.changes else ((), ("--overwrite",))

    @property
    def flushed(self) -> bool:
        """Whether it promises something about power cuts."""
        return "--fsync" in self.arguments

    def set_up(self, place: Workplace) -> None:
        """Make the older output, if there is one."""
        out = place.out
        if self.changes:
            shutil.copyfile(place.inputs / self.changes, out)
        elif self.overwrites and self.mark is None:
            out.write_bytes(b"old")
        elif self.overwrites and self.mark is not None:
            out.mkdir()
            (out / self.mark.file).write_text(json.dumps(dict.fromkeys(self.mark.keys)), encoding="utf-8")
            (out / "old.txt").write_text("old", encoding="utf-8")


_MERGED = ("{inputs}/model", "--adapter", "{inputs}/adapter", "-o", "{out}", "--device", "cpu")
_BUILD = ("build", *_MERGED, "--threads", "2")
_FILE = "{inputs}/model-f16.gguf"
_TYPES = ("--quant", "q8_0", "--quant", "q4_k_m", "--no-verify")
_RESUMED = ("--no-verify", "--resume")
_CHOSEN = ("--choice-data", "{inputs}/choice.txt", *_RESUMED)
_SEEING = ("build", "{inputs}/sees", "-o", "{out}", "--device", "cpu", "--threads", "2", "--quant", "q8_0", "--mmproj")
_CONTINUED = ".out.quantkit-"

_QUANTIZE = ("quantize", _FILE, "-o", "{out}", "--quant", "q4_k_m")
_IMATRIX = ("imatrix", _FILE, "-o", "{out}", "--data", "{inputs}/text.txt", "--ctx", "32", "--threads", "1")
_EDIT = ("edit", "{out}", "--name")
_TALK = ("chat", _FILE, "--no-history", "--param", "num_predict=8", "--param", "temperature=0")
_ANSWERS = ("chat", _FILE, "--data-file", "{inputs}/prompts.jsonl", "--predictions-file", "{out}")
_FLUSHED = ("--fsync", "--overwrite")
_NUMBERS = re.compile(rb"\d[\d.e-]*")

SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("build", (*_BUILD, *_TYPES), PACKAGE_MARK),
        Subject("build --overwrite", (*_BUILD, *_TYPES, "--overwrite"), PACKAGE_MARK, overwrites=True),
        Subject("build --bits --resume", (*_BUILD, "--bits", "6", *_CHOSEN), PACKAGE_MARK, keeps=_CONTINUED),
        Subject(
            "build --fit --resume",
            (*_BUILD, "--fit", "25MB", "--param", "num_ctx=512", *_CHOSEN),
            PACKAGE_MARK,
            keeps=_CONTINUED,
        ),
        Subject("build --mmproj --resume", (*_SEEING, *_RESUMED), PACKAGE_MARK, keeps=_CONTINUED),
        Subject("convert", ("convert", "{inputs}/model", "-o", "{out}", "--device", "cpu")),
        Subject("quantize", _QUANTIZE),
        Subject("quantize --overwrite", (*_QUANTIZE, "--overwrite"), overwrites=True),
        Subject("merge", ("merge", *_MERGED), MERGED_MARK),
        Subject("package", ("package", _FILE, "-o", "{out}"), PACKAGE_MARK),
        Subject("imatrix", _IMATRIX, continues=True),
        # A name of three letters, as the old one, is written in place; a longer one makes a new file.
        Subject("edit in place", (*_EDIT, "xyz"), overwrites=True, changes="model-f16.gguf"),
        Subject("edit", (*_EDIT, "x" * 100), overwrites=True, changes="model-f16.gguf"),
        Subject("chat", (*_ANSWERS, "--param", "num_predict=8", "--param", "temperature=0"), keeps=".partial"),
        Subject("chat, saved", (*_TALK, "<", "{inputs}/talk.txt"), overwrites=True, changes="talk.json"),
        Subject("demo", ("demo", "{out}"), PACKAGE_MARK),
        Subject("build --fsync", (*_BUILD, *_TYPES, "--fsync"), PACKAGE_MARK),
        Subject("build --fsync --overwrite", (*_BUILD, *_TYPES, *_FLUSHED), PACKAGE_MARK, overwrites=True),
        Subject("edit --fsync in place", (*_EDIT, "xyz", "--fsync"), overwrites=True, changes="model-f16.gguf"),
        Subject("quantize --fsync --overwrite", (*_QUANTIZE, *_FLUSHED), overwrites=True),
        Subject("merge --fsync --overwrite", ("merge", *_MERGED, *_FLUSHED), MERGED_MARK, overwrites=True),
    )
}


@dataclass(frozen=True)
class Right:
    """What is right for a subject.

    Attributes:
        old: the older output.
        new: the output of an undisturbed run.
        volatile: files of it with times or paths of the run in them, which differ from run to run.
        keys: of each volatile JSON file, its keys.
        shapes: of each other one, in which only numbers differ, a sha256 of what it is without these.
        seconds: how long it took.
        calls: how many calls changed files.
        clock: how often the clock was asked.
    """

    old: Tree
    new: Tree
    volatile: frozenset[str]
    keys: dict[str, frozenset[str]]
    shapes: dict[str, str]
    seconds: float
    calls: int
    clock: int

    def judge(self, subject: Subject, out: Path) -> str:
        """What is under the final name: one of the four words above, or what is wrong with it."""
        found = tree_of(out)
        if found == self.old:
            return OLD if self.old else ABSENT
        if not found:
            return ABSENT
        if found.keys() == self.new.keys():
            different = [name for name in found if found[name] != self.new[name] and name not in self.volatile]
            broken = [name for name in self.volatile if not self._whole(out / name, name)]
            if not different and not broken:
                return NEW
            if subject.continues and self._continues(out):
                return UNFINISHED
            return f"WRONG {different + broken}"
        missing, extra = sorted(self.new.keys() - found.keys()), sorted(found.keys() - self.new.keys())
        return f"WRONG: missing {missing}, extra {extra}"

    def _whole(self, path: Path, name: str) -> bool:
        if name not in self.keys:
            return _shape(path) == self.shapes[name]
        try:
            return frozenset(json.loads(path.read_text(encoding="utf-8"))) == self.keys[name]
        except ValueError:
            return False

    def _continues(self, path: Path) -> bool:
        try:
            return read_progress(path) is not None
        except QuantkitError:
            return False


def learn(subject: Subject, runner: Runner) -> Right:
    """Run a subject until everything that it imports and compiles is there, and see what it leaves.

    Raises:
        RuntimeError: it fails undisturbed.
    """
    out, found, seconds = runner.place.out, [], []
    old: Tree = {}
    for number in range(3):
        runner.place.clear()
        subject.set_up(runner.place)
        old = tree_of(out)
        arguments = subject.arguments
        ended = runner.learn(arguments) if number == 0 else runner.start(arguments, fault=Fault()).end()
        if ended.code != 0:
            raise RuntimeError(f"{subject.name}: fails undisturbed: {ended.stderr}")
        found.append(tree_of(out))
        seconds.append(ended.seconds)
    calls, _, _ = runner.state.read()
    runner.place.clear()
    subject.set_up(runner.place)
    runner.start(subject.arguments, fault=Fault(clock=1, clock_at=1 << 60)).end()
    _, _, clock = runner.state.read()
    right = right_of(out, found[-2], found[-1], old=old, seconds=min(seconds[1:]), calls=calls, clock=clock)
    runner.place.clear()
    return right


def right_of(
    out: Path, one: Tree, two: Tree, *, old: Tree, seconds: float = 0.0, calls: int = 0, clock: int = 0
) -> Right:
    """What is right, by what two undisturbed runs have left; the later one's is still there."""
    volatile = frozenset(name for name in two if one.get(name) != two[name])
    keys = {
        name: frozenset(json.loads((out / name).read_text(encoding="utf-8")))
        for name in volatile
        if name.endswith(".json")
    }
    shapes = {name: _shape(out / name) for name in volatile - keys.keys()}
    return Right(old, two, volatile, keys, shapes, seconds, calls, clock)


def _shape(path: Path) -> str:
    return hashlib.sha256(_NUMBERS.sub(b"0", path.read_bytes())).hexdigest()


def make_file(runner: Runner) -> None:
    """The F16 file that some subjects read.

    Raises:
        RuntimeError: it cannot be made.
    """
    runner.place.clear()
    ended = runner.start(("convert", "{inputs}/model", "-o", "{out}", "--device", "cpu")).end()
    if ended.code != 0:
        raise RuntimeError(ended.stderr)
    shutil.move(runner.place.out, runner.place.inputs / "model-f16.gguf")


def subjects_named(names: Sequence[str]) -> list[Subject]:
    """The subjects with these names.

    Raises:
        ValueError: there is none with a name.
    """
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        raise ValueError(f"no such subject: {unknown[0]}; there are {', '.join(SUBJECTS)}")
    return [SUBJECTS[name] for name in names]
