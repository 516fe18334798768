"""Ctrl-C while llama.cpp's converter runs: it ends too, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.checkpoints.case import Case
from tests.checkpoints.defect import CONVERT
from tests.faults.cli import command_line, environment
from tests.support.patience import PATIENCE, wait_for

SCRIPT = """\
import os, pathlib, sys, time
pathlib.Path(sys.argv[sys.argv.index("--outfile") + 1]).write_bytes(b"GGUF")
pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_interrupt(number: int, new_case: Callable[..., Case]) -> None:
    case = new_case()
    (case.root / "convert_hf_to_gguf.py").write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        command_line(case.arguments((*CONVERT, "--via-llama-cpp", "{root}", "--adapter", "{adapter}"))),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    said = case.root / "pid"
    converter = int(wait_for(lambda: said.is_file() and said.read_text(encoding="utf-8"), process))
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    assert os.listdir(case.outputs) == []
    with pytest.raises(ProcessLookupError):
        os.kill(converter, 0)
