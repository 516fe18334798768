"""Every bad input is refused by name, with the next thing to do, and leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.checkpoints import BASES, DEFECTS, Base, Defect
from tests.checkpoints.case import Case
from tests.checkpoints.defect import BUILD, CONVERT
from tests.faults.cli import assert_refused, run_here, run_process


def test_the_table_has_no_name_twice() -> None:
    names = [defect.id for defect in DEFECTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("base", BASES, ids=lambda base: f"{base.kind}-{'-'.join(base.options)}".strip("-"))
def test_what_is_broken_was_sound(
    base: Base, new_case: Callable[..., Case], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same commands succeed on the folders that the recipes break, so each refusal is due to its defect."""
    case = new_case(base)
    outcome = run_here(case.arguments(base.works), capsys)
    assert outcome.code == 0, outcome.stderr
    assert os.listdir(case.outputs) == ["out"]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.id)
def test_defect_is_refused(defect: Defect, new_case: Callable[..., Case], capsys: pytest.CaptureFixture[str]) -> None:
    case = new_case(defect.base)
    defect.breaks(case)
    outcome = run_here(case.arguments(defect.command), capsys)
    # The temporary folder's name has the test's in it, which must not pass for the message's own words.
    outcome = replace(outcome, stderr=outcome.stderr.replace(str(case.root), "CASE"))
    assert_refused(outcome, [case.fill(text).replace(str(case.root), "CASE") for text in defect.error], defect.hint)
    assert os.listdir(case.outputs) == []
    assert not case.marker.exists(), "code of the checkpoint ran"


@pytest.mark.parametrize(
    ("name", "command"),
    [("f16-overflow", (*BUILD, "--outtype", "bf16")), ("f16-overflow", (*CONVERT, "--outtype", "f32"))],
)
def test_the_hint_against_an_overflow_works(
    name: str, command: tuple[str, ...], new_case: Callable[..., Case], capsys: pytest.CaptureFixture[str]
) -> None:
    (defect,) = (defect for defect in DEFECTS if defect.id == name)
    case = new_case(defect.base)
    defect.breaks(case)
    outcome = run_here(case.arguments(command), capsys)
    assert outcome.code == 0, outcome.stderr
    assert os.listdir(case.outputs) == ["out"]


def test_the_hint_against_a_missing_chat_template_works(
    new_case: Callable[..., Case], capsys: pytest.CaptureFixture[str]
) -> None:
    case = new_case()
    case.tokenizer_config(chat_template=None)
    outcome = run_here([*case.arguments(BUILD), "--template", "llama-3"], capsys)
    assert outcome.code == 0, outcome.stderr
    assert "<|start_header_id|>" in (case.out / "Modelfile").read_text(encoding="utf-8")


def test_a_run_as_users_start_it(new_case: Callable[..., Case]) -> None:
    """One refusal in a process of its own: the table runs in this one."""
    case = new_case()
    case.weights.unlink()
    outcome = run_process(case.arguments(BUILD), cwd=case.root)
    assert_refused(outcome, [str(case.model), "no weights"], "weight files")
    assert os.listdir(case.outputs) == []
