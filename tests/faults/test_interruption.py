"""Runs that are killed or interrupted in the middle, in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from quantkit.system.host import host_token
from tests.checkpoints.case import Case
from tests.checkpoints.defect import BUILD, CONVERT
from tests.faults.cli import assert_refused, environment, older_output, run_here, run_process
from tests.support.patience import PATIENCE, wait_for

TEMPORARY = re.compile(r"\.out\.quantkit-(\d+)\.[0-9a-f]{16}")
QUANTS = ("build", "{model}", "-o", "{out}", "--quant", "iq3_s", "--quant", "q2_k", "--no-verify", "--device", "cpu")
# Runs quantkit, which stops itself in the middle, and does nothing more until it is interrupted: nobody need be fast.
STOPS = """\
import os, signal, sys, threading
from quantkit.cli.main import entry
from quantkit.engine.output_files import OutputFiles
left, put, abandon, over = int(sys.argv.pop(1)), OutputFiles.put, OutputFiles.abandon, threading.Event()
def stop(*given):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGSTOP)
        over.wait()
    left -= 1
    put(*given)
def told(self):
    over.set()
    abandon(self)
OutputFiles.put, OutputFiles.abandon = stop, told
entry()
"""


@pytest.fixture
def case(checkpoint: Callable[..., Path], tmp_path: Path) -> Case:
    case = Case(tmp_path / "case")
    case.model.mkdir(parents=True)
    for file in checkpoint("llama3-untied", layers=1).iterdir():
        (case.model / file.name).symlink_to(file)
    case.outputs.mkdir()
    return case


def run_until_streaming(case: Case, command: Sequence[str], ranges: int = 3) -> subprocess.Popen[str]:
    """Start the command; it stops itself when it has encoded so many ranges of rows, before it writes the next one."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS, str(ranges), *case.arguments(command), "--threads", "1"],
        cwd=case.root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def stopped() -> bool:
        flags = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
        found = os.waitid(os.P_PID, process.pid, flags)
        assert found is None or found.si_code == os.CLD_STOPPED, f"it ended: {process.communicate()}"
        return found is not None

    wait_for(stopped)
    return process


def end(process: subprocess.Popen[str], number: int) -> str:
    """Send a signal in the middle of its work."""
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=PATIENCE)
    return stderr


def test_kill_in_the_middle_and_run_again(case: Case) -> None:
    """Without a word nothing is deleted; what is continued, through a Ctrl-C too, is what was never interrupted."""
    process = run_until_streaming(case, QUANTS)
    end(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (left,) = os.listdir(case.outputs)
    match = TEMPORARY.fullmatch(left)
    assert match is not None, left
    assert int(match[1]) == process.pid
    outcome = run_process(case.arguments(QUANTS), cwd=case.root)
    assert_refused(outcome, [f"{case.out}: a run that was killed has finished"], "--resume")
    assert os.listdir(case.outputs) == [left]

    process = run_until_streaming(case, (*QUANTS, "--resume"))
    stderr = end(process, signal.SIGINT)
    assert process.returncode == 130
    assert [line for line in stderr.splitlines() if "run the same command again" in line]
    assert len(os.listdir(case.outputs)) == 1

    outcome = run_process(case.arguments((*QUANTS, "--resume")), cwd=case.root)
    assert outcome.code == 0, outcome.stderr
    assert "note: continued: " in outcome.stderr
    assert os.listdir(case.outputs) == ["out"]
    case.out.rename(case.root / "resumed")
    outcome = run_process(case.arguments(QUANTS), cwd=case.root)
    assert outcome.code == 0, outcome.stderr
    names = sorted(os.listdir(case.out))
    assert {"model-iq3_s.gguf", "model-q2_k.gguf", "Modelfile", "manifest.json"} <= set(names)
    assert sorted(os.listdir(case.root / "resumed")) == names
    for name in names:
        if name not in ("report.json", "report.html"):  # which have times
            assert (case.root / "resumed" / name).read_bytes() == (case.out / name).read_bytes()


def test_kill_in_the_middle_of_an_overwrite_keeps_the_old_one(case: Case) -> None:
    older_output(case.out)
    process = run_until_streaming(case, (*QUANTS, "--overwrite"))
    end(process, signal.SIGKILL)
    assert sorted(os.listdir(case.outputs)) == [f".out.quantkit-{process.pid}.{host_token()}", "out"]
    assert (case.out / "old.txt").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_interrupt_in_the_middle(number: int, case: Case) -> None:
    process = run_until_streaming(case, QUANTS)
    stderr = end(process, number)
    assert os.listdir(case.outputs) == []
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert process.returncode == 130


def test_interrupt_twice_in_the_middle(case: Case) -> None:
    """An impatient second Ctrl-C, which may come when the interpreter is already ending."""
    process = run_until_streaming(case, QUANTS)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
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
    process = run_until_streaming(case, CONVERT, ranges=0)
    assert len(list(case.outputs.glob(".out.quantkit-*/out"))) == 1
    end(process, signal.SIGKILL)
    assert not case.out.exists()
    outcome = run_process(case.arguments(CONVERT), cwd=case.root)
    assert outcome.code == 0, outcome.stderr
    assert os.listdir(case.outputs) == ["out"]
