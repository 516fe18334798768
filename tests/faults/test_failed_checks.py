"""A package that was built and is not right: exit code 3, ``OUT.failed`` with its report, nothing under OUT."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.checkpoints.case import Case
from tests.checkpoints.defect import BUILD
from tests.faults.cli import Outcome, older_output, run_here

NewCase = Callable[..., Case]
Capsys = pytest.CaptureFixture[str]
VERIFIED = tuple(argument for argument in BUILD if argument != "--no-verify")
WORD = "Ġit"


def merge_left_out(tokenizer: dict[str, Any]) -> None:
    """A word of the vocabulary that merges alone do not reach: llama.cpp finds it whole, this tokenizer does not."""
    model = tokenizer["model"]
    assert WORD in model["vocab"]
    model["ignore_merges"] = False
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) != WORD]


def assert_failed(case: Case, outcome: Outcome, check: str) -> None:
    assert outcome.code == 3, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert check in outcome.only("error")
    assert "report.json" in outcome.only("hint")
    assert outcome.stdout == ""
    failed = case.outputs / "out.failed"
    assert os.listdir(case.outputs) == ["out.failed"]
    report = json.loads((failed / "report.json").read_text(encoding="utf-8"))
    assert report["verified"] is True
    assert report["passed"] is False
    (entry,) = (entry for entry in report["checks"] if not entry["passed"])
    assert check in entry["name"]
    assert entry["evidence"]
    assert list(failed.glob("*.gguf"))
    assert (failed / "Modelfile").is_file()


def test_token_ids_that_differ(new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    case.tokenizer(merge_left_out)
    assert_failed(case, run_here(case.arguments(VERIFIED), capsys), "token ids match tokenizer.json")


def test_the_failed_folder_of_an_earlier_run_is_replaced(new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    case.tokenizer(merge_left_out)
    older_output(case.outputs / "out.failed")
    assert_failed(case, run_here(case.arguments(VERIFIED), capsys), "token ids match tokenizer.json")
    assert not (case.outputs / "out.failed" / "old.txt").exists()


def test_overwrite_keeps_the_old_package_when_a_check_fails(new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    case.tokenizer(merge_left_out)
    older_output(case.out)
    outcome = run_here([*case.arguments(VERIFIED), "--overwrite"], capsys)
    assert outcome.code == 3
    assert sorted(os.listdir(case.outputs)) == ["out", "out.failed"]
    assert (case.out / "old.txt").exists()


def test_a_check_that_kills_its_process(new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """As llama.cpp does when one of its assertions fails."""
    case = new_case()
    python = case.root / "python"
    real = f'exec "{sys.executable}" "$@"'
    dies = "echo assertion failed >&2; kill -ABRT $$"
    python.write_text(f'#!/bin/sh\ncase "$*" in *quantkit.verify*) {dies};; *) {real};; esac\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    outcome = run_here(case.arguments(VERIFIED), capsys)
    assert_failed(case, outcome, "model-q8_0.gguf: llama.cpp runs")
    assert "SIGABRT" in outcome.only("error")


def test_without_verification_nothing_is_checked(new_case: NewCase, capsys: Capsys) -> None:
    """The same model passes with --no-verify, and the report says that nothing was verified."""
    case = new_case()
    case.tokenizer(merge_left_out)
    outcome = run_here(case.arguments(BUILD), capsys)
    assert outcome.code == 0
    assert "not verified" in outcome.stdout
    report = json.loads((case.out / "report.json").read_text(encoding="utf-8"))
    assert (report["verified"], report["passed"], report["checks"]) == (False, None, [])
