"""Continuing what a killed run left: the same bytes whatever is damaged, and nothing that belongs to another run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import quantkit.engine.ranges
from quantkit.engine.output_files import padding
from quantkit.engine.rows import Rows
from quantkit.errors import OutputError
from quantkit.files.journal import Journal, JournalWriter, Record, journal_path, read_journal
from quantkit.files.leftovers import hold
from quantkit.gguf.header import read_header
from quantkit.jobs import journal_head, run_stream
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from quantkit.model.merger import Merger
from quantkit.plan.values import PlannedTensor
from quantkit.system.progress import Reporter
from tests.checkpoints.case import Case, edit_json
from tests.checkpoints.defect import PLAIN, Base
from tests.checkpoints.sound import make_sound
from tests.support.hub_client import REPOSITORY
from tests.support.patience import PATIENCE

RECORDS = 85  # of the killed conversion
KILLS = 50


class Killed(BaseException):
    """Stands for a signal that cannot be caught."""


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantkit.engine.ranges, "CHUNK_WEIGHTS", 1 << 12)
    monkeypatch.setattr(quantkit.engine.ranges, "LEAST_CHUNK_WEIGHTS", 1 << 12)


def run(case: Case, out: Path, **options: object) -> Reporter:
    """A conversion with its adapter, to which everything is added that it needs no other option for."""
    reporter = Reporter()
    given = {"adapters": [case.adapter], "device": "cpu", "threads": 1, "reporter": reporter}
    convert(case.model, out, **{**given, **options})  # type: ignore[arg-type]
    return reporter


def killed_after(records: int, monkeypatch: pytest.MonkeyPatch, job: Callable[[], object]) -> None:
    """Run a job that is ended after so many records."""
    left = [records]
    finished = JournalWriter.finished

    def count(self: JournalWriter, index: int, record: Record) -> None:
        finished(self, index, record)
        left[0] -= 1
        if not left[0]:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(JournalWriter, "finished", count)
        with pytest.raises(Killed):
            job()


@pytest.fixture(scope="module")
def sound(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """A case with what a killed conversion left of ``out.gguf``, and ``whole/out.gguf``, which was not killed."""
    case = make_sound(tmp_path_factory.mktemp("resume"), Base(PLAIN.kind, {"layers": 2}), checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CHUNK_WEIGHTS", "LEAST_CHUNK_WEIGHTS"):
            patch.setattr(quantkit.engine.ranges, name, 1 << 12)
        case.outputs.mkdir()
        run(case, case.root / "whole" / "out.gguf")
        killed_after(RECORDS, patch, lambda: run(case, case.outputs / "out.gguf", resume=True))
        (left,) = case.outputs.iterdir()
        left.rename(case.outputs / f".out.gguf.quantkit-{10**9}")  # no system has such ids
    return case


@pytest.fixture
def case(sound: Case, tmp_path: Path) -> Case:
    shutil.copytree(sound.root, tmp_path / "case", copy_function=shutil.copy2)  # with the times
    return Case(tmp_path / "case")


def out(case: Case) -> Path:
    return case.outputs / "out.gguf"


def left(case: Case) -> Path:
    """The temporary file of the killed run."""
    (found,) = case.outputs.glob(".out.gguf.quantkit-*/out.gguf")
    return found


def journal(case: Case) -> Journal:
    found = read_journal(journal_path(left(case)))
    assert found is not None
    return found


def assert_whole(case: Case) -> None:
    assert out(case).read_bytes() == (case.root / "whole" / "out.gguf").read_bytes()
    assert os.listdir(case.outputs) == ["out.gguf"]


def put_ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The ranges that are written from now on: tensor, index."""
    found: list[tuple[str, int]] = []
    finished = JournalWriter.finished

    def noted(self: JournalWriter, index: int, record: Record) -> None:
        found.append((record.tensor, index))
        finished(self, index, record)

    monkeypatch.setattr(JournalWriter, "finished", noted)
    return found


def test_what_is_finished_is_not_made_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what adapters change is measured as if nothing had happened."""
    before, rows = journal(case).records, Merger.rows
    asked: set[str] = set()
    assert len(before) == RECORDS

    def noted(self: Merger, tensor: PlannedTensor, *rest: Any) -> Rows:
        asked.add(tensor.name)
        return rows(self, tensor, *rest)

    monkeypatch.setattr(Merger, "rows", noted)
    monkeypatch.setattr(run_stream, "load_encoders", lambda *_: lambda: None)  # which reads rows of its own
    made = put_ranges(monkeypatch)
    reporter = run(case, out(case), resume=True)
    assert_whole(case)
    resumed, read = list(made), set(asked)
    made.clear()
    whole = run(case, case.root / "again.gguf")
    assert len(resumed) == len(made) - RECORDS
    assert set(resumed) < set(made)
    (continued,) = (note for note in reporter.notes if note not in whole.notes)
    assert continued.startswith("continued: ")
    assert set(whole.notes) < set(reporter.notes)  # with the adapter's effects
    assert any(note.startswith("adapter adds ") for note in whole.notes)
    done = {record.tensor for record in before} - {tensor for tensor, _ in resumed}
    assert {"attn_q", "ffn_up"} <= {tensor.split(".")[2] for tensor in done if tensor.startswith("blk.")}
    assert {name.split(".")[2] for name in done & read} == {"attn_q", "attn_v"}


Break = Callable[[Case], None]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 16
    path.write_bytes(data)


def places(case: Case) -> dict[str, tuple[int, int]]:
    """Offset and size of the tensors."""
    header = read_header(case.root / "whole" / "out.gguf")
    return {
        name: (header.data_offset + info.offset, info.type.nbytes(info.shape)) for name, info in header.tensors.items()
    }


def last(case: Case) -> Record:
    """The record of the most bytes."""
    return max(journal(case).records, key=lambda record: record.nbytes)


def in_a_finished_range(case: Case) -> None:
    flip(left(case), places(case)[last(case).tensor][0] + last(case).nbytes // 2)


def in_the_header(case: Case) -> None:
    flip(left(case), 100)


def in_the_padding(case: Case) -> None:
    ends = sorted(offset + size for offset, size in places(case).values())
    data = left(case).read_bytes()
    begins = {offset for offset, _ in places(case).values()}
    before_data = read_header(case.root / "whole" / "out.gguf").data_offset - 1
    gap = next((end for end in ends[:-1] if end not in begins), before_data)
    assert data[gap] == 0
    flip(left(case), gap)


def cut_off(case: Case) -> None:
    os.truncate(left(case), left(case).stat().st_size // 3)


def too_long(case: Case) -> None:
    with left(case).open("ab") as file:
        file.write(b"more")


def all_zeros(case: Case) -> None:
    """A power cut: the journal reached the disk, and the bytes did not."""
    left(case).write_bytes(bytes(left(case).stat().st_size))


def a_record(case: Case) -> None:
    path = journal_path(left(case))
    flip(path, len(path.read_bytes()) * 2 // 3)


def a_torn_record(case: Case) -> None:
    path = journal_path(left(case))
    os.truncate(path, path.stat().st_size - 20)


def the_head(case: Case) -> None:
    flip(journal_path(left(case)), 200)


def a_false_claim(case: Case) -> None:
    """Sound to look at: more is said to be finished than is."""
    found = journal(case)
    tensor, (_, size) = next((name, place) for name, place in places(case).items() if name == last(case).tensor)
    claims = [Record(tensor, size, last(case).sha256), Record("no such tensor", 64, "00"), Record(tensor, 7, "00")]
    JournalWriter(journal_path(left(case)), found.head, [*found.records, *claims]).close()


def no_file(case: Case) -> None:
    left(case).unlink()


def in_another_folder(case: Case) -> None:
    """Killed while the next run took it over: the journal is in one folder, the file in the other."""
    other = left(case).parent.with_name(f".out.gguf.quantkit-{10**9 + 1}")
    other.mkdir()
    left(case).rename(other / "out.gguf")


def a_link(case: Case) -> None:
    """Nobody makes it, and what it points to stays."""
    left(case).rename(case.root / "elsewhere.gguf")
    left_at = journal_path(case.outputs / "x").parent / f".out.gguf.quantkit-{10**9}" / "out.gguf"
    left_at.symlink_to(case.root / "elsewhere.gguf")


def of_this_process(case: Case) -> None:
    """In a container every run may have the same id."""
    left(case).parent.rename(case.outputs / f".out.gguf.quantkit-{os.getpid()}")


def of_a_process_that_is_another_now(case: Case) -> None:
    """After a restart of the machine."""
    left(case).parent.rename(case.outputs / f".out.gguf.quantkit-{os.getppid()}")


@pytest.mark.parametrize(
    ("broken", "continued"),
    [
        *((one, True) for one in (in_a_finished_range, in_the_header, in_the_padding, cut_off, too_long, a_record)),
        *((one, True) for one in (a_torn_record, a_false_claim, in_another_folder)),
        *((one, True) for one in (of_this_process, of_a_process_that_is_another_now)),
        *((one, False) for one in (all_zeros, the_head, no_file, a_link)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_damage_is_made_again(case: Case, monkeypatch: pytest.MonkeyPatch, broken: Break, continued: bool) -> None:
    whole = sum(1 for _ in places(case))
    broken(case)
    made = put_ranges(monkeypatch)
    run(case, out(case), resume=True)
    assert_whole(case)
    first = {tensor for tensor, index in made if index == 0}
    assert (len(first) < whole) == continued
    elsewhere = case.root / "elsewhere.gguf"
    assert not elsewhere.exists() or elsewhere.read_bytes() != out(case).read_bytes()


def other_weights(case: Case) -> None:
    flip(case.weights, case.weights.stat().st_size - 1)


def other_time(case: Case) -> None:
    os.utime(case.weights, ns=(1, 1))


def other_config(case: Case) -> None:
    edit_json(case.model / "config.json", note="no matter what")


def other_adapter(case: Case) -> None:
    times = case.adapter_weights.stat()
    flip(case.adapter_weights, times.st_size - 1)
    os.utime(case.adapter_weights, ns=(times.st_atime_ns, times.st_mtime_ns))


def other_scale(case: Case) -> None:
    case.adapter_config(lora_alpha=4)


REFUSED: list[tuple[str, Break, dict[str, object]]] = [
    ("model.safetensors has changed since", other_weights, {}),
    ("model.safetensors has changed since", other_time, {}),
    ("config.json has changed since", other_config, {}),
    ("adapter_model.safetensors has changed since", other_adapter, {}),
    ("adapter_config.json has changed since", other_scale, {}),
    ("other adapters", lambda case: None, {"adapters": ()}),
    ("other adapters, or with other weights", lambda case: None, {"adapters": [("ADAPTER", 0.5)]}),
    ("another plan", lambda case: None, {"outtype": "bf16"}),
    ("another plan", lambda case: None, {"rope_theta": 20000.0}),
]


@pytest.mark.parametrize(("error", "change", "options"), REFUSED, ids=range(len(REFUSED)))
def test_another_run_is_not_continued(case: Case, error: str, change: Break, options: dict[str, object]) -> None:
    """It is refused by name, and nothing is lost by that; with --overwrite it is made again."""
    if options.get("adapters"):
        options = {"adapters": [(case.adapter, 0.5)]}
    change(case)
    before = {path: path.stat().st_mtime_ns for path in case.outputs.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=error) as caught:
        run(case, out(case), resume=True, **options)
    assert "out.gguf: cannot be continued: " in str(caught.value)
    assert "--overwrite" in caught.value.hint
    assert {path: path.stat().st_mtime_ns for path in case.outputs.rglob("*") if path.is_file()} == before
    reporter = run(case, out(case), resume=True, overwrite=True, **options)
    assert [note for note in reporter.notes if "out.gguf is made again: " in note and error in note]
    run(case, case.root / "out.gguf", **options)
    assert out(case).read_bytes() == (case.root / "out.gguf").read_bytes()
    assert os.listdir(case.outputs) == ["out.gguf"]


def test_versions_and_devices_are_part_of_the_plan(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(journal_head, "versions", lambda more: {"quantkit": "0.0.1"})
        with pytest.raises(OutputError, match=r"it was begun with quantkit \S+, and this is 0\.0\.1"):
            run(case, out(case), resume=True)
    head = journal(case).head
    assert journal_head.difference({**head, "device": "cuda"}, head).endswith("with --device cuda, and this is cpu")
    assert "another version" in journal_head.difference({**head, "format": 0}, head)


def test_without_resume_it_is_said_and_nothing_is_lost(case: Case) -> None:
    with pytest.raises(OutputError, match=r"out\.gguf: a run that was killed has finished .* of .* of it") as caught:
        run(case, out(case))
    assert caught.value.hint == "pass --resume, or pass --overwrite to begin again"
    assert left(case).exists()
    run(case, out(case), overwrite=True)
    assert_whole(case)


def test_a_run_that_lives_is_left_alone(case: Case) -> None:
    """Whatever its process id looks like from here: it holds the lock."""
    folder = left(case).parent
    lock = hold(folder)
    assert lock is not None
    run(case, out(case), resume=True)
    assert out(case).read_bytes() == (case.root / "whole" / "out.gguf").read_bytes()
    assert left(case).exists()
    os.close(lock)


def test_an_interrupt_leaves_what_is_finished_only_if_that_is_wanted(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(left(case).parent)
    killed_after(9, monkeypatch, lambda: run(case, out(case)))
    assert os.listdir(case.outputs) == []
    reporter = Reporter()
    for records in (9, 12):
        killed_after(records, monkeypatch, lambda: run(case, out(case), resume=True, reporter=reporter))
        assert len(journal(case).records) >= records
        assert "run the same command again" in reporter.notes[-1]
        assert len(os.listdir(case.outputs)) <= 2  # nothing piles up
    run(case, out(case), resume=True)
    assert_whole(case)


def test_what_the_next_run_does_not_make_is_said(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a split model, of which the next run makes none."""
    shutil.rmtree(left(case).parent)
    killed_after(9, monkeypatch, lambda: run(case, out(case), resume=True, split_max_size="200K"))
    reporter = run(case, out(case), resume=True)
    assert [note for note in reporter.notes if note.endswith("is not part of this one and is removed")]
    assert_whole(case)


def test_parts_of_a_split_model(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(left(case).parent)
    for records in (9, 60):
        killed_after(records, monkeypatch, lambda: run(case, out(case), resume=True, split_max_size="200K"))
    journals = sorted(case.outputs.glob(".out.gguf.quantkit-*/.*.journal"), key=lambda path: path.stat().st_size)
    flip(journals[-1], 200)
    reporter = run(case, out(case), resume=True, split_max_size="200K", threads=3)
    (note,) = (note for note in reporter.notes if "its journal is damaged" in note)
    assert note.startswith(f"{journals[-1].name[1:].removesuffix('.journal')} is made again: ")
    run(case, case.root / "out.gguf", split_max_size="200K")
    made = sorted(os.listdir(case.outputs))
    assert len(made) > 2
    for name in made:
        assert (case.outputs / name).read_bytes() == (case.root / name).read_bytes()


def test_fifty_kills_in_a_row(case: Case) -> None:
    """At random moments; each run is continued by the next one."""
    merge(case.model, case.root / "merged", adapters=[case.adapter], device="cpu", max_shard_size="200K")
    words = [case.model, case.adapter, case.root / "merged", case.root / "killed", KILLS, 16]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_runs", *map(str, words)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] == KILLS, found
    assert (found["different"], found["failed"]) == (0, 0), found
    assert found["continued"] >= KILLS // 3, found
    assert found["left"] <= 4, found


def test_a_merged_folder(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def job(folder: Path, **options: object) -> None:
        merge(case.model, folder, adapters=[case.adapter], device="cpu", max_shard_size="200K", **options)  # type: ignore[arg-type]

    killed_after(20, monkeypatch, lambda: job(case.outputs / "m", resume=True))
    made = put_ranges(monkeypatch)
    job(case.outputs / "m", resume=True)
    resumed = len(made)
    job(case.root / "m")
    assert resumed == len(made) - resumed - 20
    expected = {path.name: path.read_bytes() for path in (case.root / "m").iterdir()}
    assert {path.name: path.read_bytes() for path in (case.outputs / "m").iterdir()} == expected


def test_fsync_flushes_the_bytes_before_their_records(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.files.journal.FLUSH_SECONDS", 0.0)
    killed_after(30, monkeypatch, lambda: run(case, case.outputs / "other.gguf", resume=True, fsync=True))
    run(case, case.outputs / "other.gguf", resume=True, fsync=True)
    run(case, case.root / "other.gguf")
    assert (case.outputs / "other.gguf").read_bytes() == (case.root / "other.gguf").read_bytes()


def test_padding_is_what_no_tensor_has() -> None:
    from quantkit.ggml.types import GGMLType
    from quantkit.plan.values import Output, TensorSlot

    slots = {"b": TensorSlot(GGMLType.F32, 32, 4), "a": TensorSlot(GGMLType.F32, 6, 10)}
    output = Output("x", "f32", b"head", 40, slots)
    assert padding(output) == [(4, 2), (16, 16), (36, 4)]
    assert padding(replace(output, nbytes=36, header=b"header")) == [(16, 16)]
