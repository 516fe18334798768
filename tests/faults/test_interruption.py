"""Runs that are killed or interrupted in the middle, in processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from quantkit.system.host import host_token
from tests.checkpoints.case import Case
from tests.checkpoints.defect import BUILD, CONVERT
from tests.faults.cli import assert_refused, command_line, environment, older_output, run_here, run_process

TEMPORARY = re.compile(r"\.out\.quantkit-(\d+)\.[0-9a-f]{16}")
# Slow types on one thread: seconds of encoding for a signal to arrive in.
SLOW = ("build", "{model}", "-o", "{out}", "--quant", "iq3_s", "--quant", "q2_k", "--no-verify", "--device", "cpu")
DEADLINE = 60


@pytest.fixture(scope="module")
def large(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint that takes some seconds to build."""
    folder = tmp_path_factory.mktemp("large") / "model"
    options = {"hidden": 512, "intermediate": 1536, "heads": 8, "kv_heads": 4, "layers": 1}
    shutil.copytree(checkpoint("llama3-untied", **options), folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def case(large: Path, tmp_path: Path) -> Case:
    case = Case(tmp_path / "case")
    case.root.mkdir()
    case.model.symlink_to(large)
    case.outputs.mkdir()
    return case


def run_until_streaming(case: Case, command: Sequence[str], records: int = 0) -> subprocess.Popen[str]:
    """Start the command and wait until it encodes: the file is there under its temporary name, and is growing.

    Args:
        case: where.
        command: what to run.
        records: of the journal, to wait for too.
    """
    process = subprocess.Popen(
        command_line([*case.arguments(command), "--threads", "1"]),
        cwd=case.root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs tests in the background has its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    deadline = time.monotonic() + DEADLINE
    while not list(case.outputs.glob(".out.quantkit-*/*q2_k.gguf")) or lines(case) <= records:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no output file appeared: {process.communicate()}")
        time.sleep(0.005)
    time.sleep(0.0 if records else 0.1)
    return process


def lines(case: Case) -> int:
    """Lines of the journal of a file: its head and its records."""
    found = list(case.outputs.glob(".out.quantkit-*/.*q2_k.gguf.journal"))
    return max((path.read_bytes().count(b"\n") for path in found), default=1)


def end(process: subprocess.Popen[str], number: int) -> str:
    """Send a signal; the process must still have been at work."""
    assert process.poll() is None, "the run was over before the signal: make the checkpoint larger"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=DEADLINE)
    return stderr


def test_kill_in_the_middle_and_run_again(case: Case) -> None:
    """Without a word nothing is deleted; what is continued, through a Ctrl-C too, is what was never interrupted."""
    process = run_until_streaming(case, SLOW, records=1)
    end(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (left,) = os.listdir(case.outputs)
    match = TEMPORARY.fullmatch(left)
    assert match is not None, left
    assert int(match[1]) == process.pid
    outcome = run_process(case.arguments(SLOW), cwd=case.root)
    assert_refused(outcome, [f"{case.out}: a run that was killed has finished"], "--resume")
    assert os.listdir(case.outputs) == [left]

    process = run_until_streaming(case, (*SLOW, "--resume"), records=2)
    stderr = end(process, signal.SIGINT)
    assert process.returncode == 130
    assert [line for line in stderr.splitlines() if "run the same command again" in line]
    assert len(os.listdir(case.outputs)) == 1

    outcome = run_process(case.arguments((*SLOW, "--resume")), cwd=case.root)
    assert outcome.code == 0, outcome.stderr
    assert "note: continued: " in outcome.stderr
    assert os.listdir(case.outputs) == ["out"]
    case.out.rename(case.root / "resumed")
    outcome = run_process(case.arguments(SLOW), cwd=case.root)
    assert outcome.code == 0, outcome.stderr
    names = sorted(os.listdir(case.out))
    assert {"model-iq3_s.gguf", "model-q2_k.gguf", "Modelfile", "manifest.json"} <= set(names)
    assert sorted(os.listdir(case.root / "resumed")) == names
    for name in names:
        if name not in ("report.json", "report.html"):  # which have times
            assert (case.root / "resumed" / name).read_bytes() == (case.out / name).read_bytes()


def test_kill_in_the_middle_of_an_overwrite_keeps_the_old_one(case: Case) -> None:
    older_output(case.out)
    process = run_until_streaming(case, (*SLOW, "--overwrite"))
    end(process, signal.SIGKILL)
    assert sorted(os.listdir(case.outputs)) == [f".out.quantkit-{process.pid}.{host_token()}", "out"]
    assert (case.out / "old.txt").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_interrupt_in_the_middle(number: int, case: Case) -> None:
    process = run_until_streaming(case, SLOW)
    stderr = end(process, number)
    assert os.listdir(case.outputs) == []
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert process.returncode == 130


def test_interrupt_twice_in_the_middle(case: Case) -> None:
    """An impatient second Ctrl-C, which may come when the interpreter is already ending."""
    process = run_until_streaming(case, SLOW)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert "Traceback" not in stderr
    assert process.returncode in (130, -signal.SIGINT)
    assert not case.out.exists()


def finished_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_killed_runs_left_is_removed_and_what_others_made_is_not(
    new_case: Callable[..., Case], capsys: pytest.CaptureFixture[str]
) -> None:
    case = new_case()
    dead = finished_process()
    theirs = [f".out.quantkit-{os.getppid()}", f".out2.quantkit-{dead}", ".out.quantkit-mine", ".outXquantkit-1"]
    for name in (f".out.quantkit-{dead}", *theirs):
        (case.outputs / name).mkdir()
        (case.outputs / name / "file").write_text("x", encoding="utf-8")
    outcome = run_here(case.arguments(BUILD), capsys)
    assert outcome.code == 0, outcome.stderr
    assert sorted(os.listdir(case.outputs)) == sorted(["out", *theirs])


@pytest.mark.parametrize("fails", [False, True], ids=["next-run-succeeds", "next-run-fails"])
def test_an_output_that_was_moved_aside_comes_back(
    fails: bool, new_case: Callable[..., Case], capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between the two renames of an overwrite: the old output is under a temporary name alone."""
    case = new_case()
    aside = case.outputs / f".out.quantkit-old-{finished_process()}"
    older_output(aside)
    if fails:
        case.weights.unlink()
    outcome = run_here([*case.arguments(BUILD), "--overwrite"], capsys)
    assert outcome.code == (1 if fails else 0), outcome.stderr
    assert os.listdir(case.outputs) == ["out"]
    assert (case.out / "old.txt").exists() == fails


def test_a_file_is_never_under_its_name_before_it_is_whole(case: Case) -> None:
    process = run_until_streaming_file(case)
    end(process, signal.SIGKILL)
    assert not case.out.exists()
    outcome = run_process(case.arguments(CONVERT), cwd=case.root)
    assert outcome.code == 0, outcome.stderr
    assert os.listdir(case.outputs) == ["out"]


def run_until_streaming_file(case: Case) -> subprocess.Popen[str]:
    """As :func:`run_until_streaming`, for a conversion, stopped as soon as its file is there."""
    process = subprocess.Popen(command_line(case.arguments(CONVERT)), cwd=case.root, env=environment(), text=True)
    deadline = time.monotonic() + DEADLINE
    while not list(case.outputs.glob(".out.quantkit-*/out")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail("no output file appeared")
        time.sleep(0.0005)
    process.send_signal(signal.SIGSTOP)
    return process
