"""Running the command: in this process, or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantkit.cli.main import main
from quantkit.files.replaceable import Mark
from quantkit.package.manifest import PACKAGE_MARK
from tests.support.patience import PATIENCE

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    code: int
    stdout: str
    stderr: str

    def only(self, kind: str) -> str:
        """The one line of stderr that begins with *kind*."""
        found = [line for line in self.stderr.splitlines() if line.startswith(f"{kind}: ")]
        assert len(found) == 1, f"{len(found)} lines begin with {kind!r}:\n{self.stderr}"
        return found[0].removeprefix(f"{kind}: ")


def run_here(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run the command in this process. An exception that the command line lets through fails the test."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(exit_info.value.code, int)
    return Outcome(exit_info.value.code, captured.out, captured.err)


def command_line(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "quantkit", *arguments]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **(extra or {})}


def run_process(
    arguments: Sequence[str], *, cwd: Path, within: Sequence[str] = (), extra: Mapping[str, str] | None = None
) -> Outcome:
    """Run the command in a process of its own, *within* another command if one is given."""
    done = subprocess.run(
        [*within, *command_line(arguments)],
        cwd=cwd,
        env=environment(extra),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def assert_refused(outcome: Outcome, error: Sequence[str], hint: str) -> None:
    """Exit code 1, one error line with all these texts, one hint line, nothing else but notes."""
    assert "Traceback" not in outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("note: ")]
    assert outcome.code == 1, outcome.stderr
    message = outcome.only("error")
    for text in error:
        assert text in message, f"{text!r} is not in {message!r}"
    assert hint in outcome.only("hint")
    assert len(lines) == 2, lines
    assert outcome.stdout == ""


def older_output(folder: Path, mark: Mark = PACKAGE_MARK) -> None:
    """Make what an earlier run left there, as far as its mark goes, and ``old.txt``."""
    folder.mkdir()
    (folder / mark.file).write_text(json.dumps(dict.fromkeys(mark.keys)), encoding="utf-8")
    (folder / "old.txt").write_text("old", encoding="utf-8")
